//! `dmasharectl rehearse`: a loss that the hardware knows nothing of.

use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::bus::{Broker, Bus};
use crate::failure::Failure;
use crate::model::Device;
use crate::render::text::{clean, duration};
use crate::select;

/// One that the service has taken on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    device: u64,
    name: String,
    client: Option<u64>,
    after: Duration,
}

/// Has the service rehearse the loss of the device that `wanted` names, for one client or for all.
///
/// # Errors
/// No such device; the service refuses, or does not answer.
pub fn rehearse(
    bus: &Bus,
    wanted: &str,
    client: Option<u64>,
    after: Duration,
) -> Result<Rehearsal, Failure> {
    let devices = Broker::connect(bus)?.snapshot()?.devices;
    let &Device { id: device, ref name, .. } = select::device(wanted, &devices)?;
    let _agent = Agent::for_terminal(bus);
    let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    Broker::connect_to_wait(bus)?.rehearse(device, client.unwrap_or(0), after_ms)?;
    Ok(Rehearsal { device, name: name.clone(), client, after })
}

impl Rehearsal {
    /// As a sentence.
    #[must_use]
    pub fn text(&self) -> String {
        let whom = match self.client {
            Some(client) => format!("client c{client} alone"),
            None => "all clients".to_owned(),
        };
        let when = match u64::try_from(self.after.as_nanos()) {
            Ok(0) => "now".to_owned(),
            nanos => format!("in {}", duration(nanos.unwrap_or(u64::MAX))),
        };
        let (device, name) = (self.device, clean(&self.name));
        format!(
            "the loss of d{device} ({name}) is rehearsed for {whom}, {when}\n\
             the hardware is untouched; afterwards: dmasharectl report d{device}\n"
        )
    }

    /// `rehearse --json`.
    #[must_use]
    pub fn json(&self) -> Value {
        let after_ms = u64::try_from(self.after.as_millis()).unwrap_or(u64::MAX);
        json!({ "rehearsal": {
            "device": self.device, "client": self.client, "after_ms": after_ms,
        }})
    }
}

/// A client as `status` shows it: `c6`, or `6`.
///
/// # Errors
/// It is neither.
pub fn client(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix(['c', 'C']).unwrap_or(text);
    match digits.parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => {
            Err("expected the id of a client, as `c6`; `dmasharectl status` lists them".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_named_as_they_are_shown() {
        assert_eq!((client("c6"), client("17")), (Ok(6), Ok(17)));
        for text in ["", "c", "0", "c0", "d6", "-1"] {
            assert!(client(text).is_err(), "{text}");
        }
    }
}
