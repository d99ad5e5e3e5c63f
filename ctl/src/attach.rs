//! `dmasharectl attach`: has the kernel look for devices, and says which came.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::agent::Agent;
use crate::bus::Bus;
use crate::failure::Failure;
use crate::live::{Live, Start};
use crate::model::Device;
use crate::render::text::{clean, duration};
use crate::world::Event;

/// Cards that come together come close to one another.
const TOGETHER: Duration = Duration::from_millis(500);

/// The devices that came, at least one.
///
/// # Errors
/// None came in time; the service refuses, or does not answer.
pub async fn attach(bus: &Bus, patience: Duration) -> Result<Vec<Device>, Failure> {
    let mut live = Live::connect(bus, Start::Service).await?;
    let agent = Agent::for_terminal(bus);
    live.caller().attach().await?;
    drop(agent);
    let mut came: Vec<Device> = Vec::new();
    let mut until = Instant::now() + patience;
    while let Ok(events) = timeout_at(until, live.next()).await {
        for event in events? {
            match event {
                Event::Arrived { device } => {
                    came.push(device);
                    until = Instant::now() + TOGETHER;
                }
                Event::Service { running: false, .. } => {
                    return Err(Failure::NoAnswer("it stopped meanwhile".to_owned()));
                }
                _ => {}
            }
        }
    }
    // As they are by now: nodes come one after another.
    let there = live.world().devices();
    let came: Vec<Device> = came
        .into_iter()
        .filter_map(|it| there.iter().find(|now| now.id == it.id).cloned())
        .collect();
    if came.is_empty() {
        let ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        return Err(Failure::NoneCame(duration(ns)));
    }
    Ok(came)
}

/// In words.
#[must_use]
pub fn text(came: &[Device]) -> String {
    let line = |device: &Device| {
        let nodes: Vec<String> = device.nodes.iter().map(|node| clean(node)).collect();
        let driver = if device.driver.is_empty() { "no driver" } else { &device.driver };
        let (id, name, driver) = (device.id, clean(&device.name), clean(driver));
        format!("d{id} ({name}, {driver}) is there: {}\n", nodes.join(", "))
    };
    came.iter().map(line).collect()
}

/// `attach --json`.
#[must_use]
pub fn json(came: &[Device]) -> Value {
    json!({ "attached": came })
}
