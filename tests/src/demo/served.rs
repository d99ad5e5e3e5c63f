//! The consumer's thread that serves the broker's connection.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Result, bail, ensure};
use dmashare::{Connection, DeviceId, Event};

use super::gpu::Handle;
use crate::clock::now_ns;

/// What it met.
pub enum Served {
    /// The loss of the eGPU.
    Lost(Lost),
    /// Nothing of the eGPU is left: when that was read.
    Gone(u64),
}

/// What was done about the loss.
pub struct Lost {
    /// When the event was read, with every import taken back.
    pub revoked_ns: u64,
    /// How many.
    pub revoked: usize,
    /// When the broker had the acknowledgement.
    pub acknowledged_ns: u64,
}

/// Starts it; it ends with the process. At the loss of the device it lets go of the GPU's handles,
/// which are for their owner to drop, and acknowledges.
pub fn serve(
    broker: Connection,
    device: DeviceId,
    handles: Vec<Handle>,
) -> Receiver<Result<Served>> {
    let (tell, served) = channel();
    thread::spawn(move || {
        if let Err(error) = dispatch(&broker, device, handles, &tell) {
            // Nobody listens any more at the end.
            drop(tell.send(Err(error)));
        }
    });
    served
}

fn dispatch(
    broker: &Connection,
    device: DeviceId,
    handles: Vec<Handle>,
    tell: &Sender<Result<Served>>,
) -> Result<()> {
    let mut handles = Some(handles);
    loop {
        let events = broker.dispatch(None)?;
        let read_ns = now_ns();
        for event in events {
            match event {
                Event::DeviceLost(lost) if lost.device() == device => {
                    ensure!(lost.failed().is_empty(), "not taken back: {:?}", lost.failed());
                    let revoked = lost.imports().len();
                    drop(handles.take());
                    lost.acknowledge()?;
                    let acknowledged_ns = now_ns();
                    let lost = Lost { revoked_ns: read_ns, revoked, acknowledged_ns };
                    tell.send(Ok(Served::Lost(lost)))?;
                }
                Event::DeviceGone(gone) if gone == device => {
                    if handles.is_some() {
                        bail!("the device is gone, and its loss was not told");
                    }
                    tell.send(Ok(Served::Gone(read_ns)))?;
                }
                _ => {}
            }
        }
    }
}
