//! The signal `Lost`, as any client of the bus gets it.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dmasharectl::bus::Bus;
use serde::Serialize;
use zbus::MatchRule;
use zbus::blocking::MessageIterator;
use zbus::blocking::connection::Builder;
use zbus::message::Type;

use crate::clock::now_ns;

/// Longest way of a signal.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `Lost` signal.
#[derive(Clone, Debug, Serialize)]
pub struct LostSignal {
    /// When it was received.
    pub at_ns: u64,
    /// Why the device is lost.
    pub cause: String,
    /// How many buffers it had.
    pub buffers: u32,
    /// How many imports.
    pub imports: u32,
    /// How many fences.
    pub fences: u32,
}

/// Waits for the signal of one device.
pub struct Watch(Receiver<Result<LostSignal>>);

impl Watch {
    /// Subscribed when this returns.
    ///
    /// # Errors
    /// The bus's.
    pub fn start(bus: &Bus, device: u64) -> Result<Self> {
        let connection = match bus {
            Bus::System => Builder::system(),
            Bus::Session => Builder::session(),
            Bus::Address(address) => Builder::address(address.as_str()),
        }?
        .build()?;
        let path = format!("/org/dmashare/Broker1/device/d{device}");
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .interface("org.dmashare.Device1")?
            .member("Lost")?
            .path(path)?
            .build();
        let mut signals = MessageIterator::for_match_rule(rule, &connection, None)?;
        let (tell, signal) = channel();
        thread::spawn(move || {
            let first = signals.next().context("the bus has closed the connection");
            let at_ns = now_ns();
            let read = first.and_then(|message| {
                type Body = (String, u64, u32, u32, u32);
                let (cause, _, buffers, imports, fences): Body = message?.body().deserialize()?;
                Ok(LostSignal { at_ns, cause, buffers, imports, fences })
            });
            // Nobody listens any more when the demo has failed.
            drop(tell.send(read));
        });
        Ok(Self(signal))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// It does not come, or not as it should be.
    pub fn lost(&self) -> Result<LostSignal> {
        self.0.recv_timeout(PATIENCE).context("no signal Lost on D-Bus")?
    }
}
