//! `dmasharectl holders`: who holds a device.

use dmashare_proto::holders::Holders;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::bus::Bus;
use crate::failure::Failure;
use crate::live::{Live, Start};
use crate::model::Device;
use crate::select;

/// What a look for the holders of the device that `wanted` names found.
///
/// # Errors
/// No such device; the service refuses, or does not answer.
pub async fn look(bus: &Bus, wanted: &str) -> Result<(Device, Holders), Failure> {
    let live = Live::connect(bus, Start::Service).await?;
    let device = select::device(wanted, &live.world().devices())?.clone();
    let _agent = Agent::for_terminal(bus);
    let found = live.caller().holders(device.id, true).await?;
    Ok((device, found))
}

/// `holders --json`.
#[must_use]
pub fn json(device: &Device, found: &Holders) -> Value {
    json!({ "device": device.id, "name": device.name, "driver": device.driver,
            "holders": shape(found) })
}

/// What was found, with what is in an eject's way said of each process.
#[must_use]
pub fn shape(found: &Holders) -> Value {
    let processes: Vec<Value> = found
        .processes
        .iter()
        .map(|holder| {
            let mut value = json!(holder);
            value["active"] = holder.is_active().into();
            value
        })
        .collect();
    json!({ "processes": processes, "others": found.others, "looked": found.looked })
}
