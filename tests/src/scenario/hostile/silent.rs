//! Clients that stop listening: by their own will, or stopped by a signal in the middle of it all.

use anyhow::{Context, Result, bail};
use dmashare_proto::message::Request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::actor::Task;
use crate::hostile::Raw;
use crate::hostile::objects::import;
use crate::hostile::pace::{amount, under_attack};
use crate::process::eventually;
use crate::{BOUND, Buffer, User, World};

/// Fences of those who are killed end by their deadline.
pub(super) const BRIEF: &str = "[fence]\ndeadline_ms = 3000\n";
/// Far more than any queue takes.
const MANY: usize = 100_000;
const STOPPED: usize = 3;

/// Who asks and does not read is disconnected, again and again; what waits for it is given back.
pub(super) fn never_reads(world: &mut World) -> Result<()> {
    let rounds = amount(world, 10, 2)?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    under_attack(world, || {
        for _ in 0..rounds {
            let mut owner = Raw::hello(&world.socket(), "owner")?;
            let object = owner.export(&buffer)?.buffer;
            let token = owner.grant(object, u32::MAX)?;
            for request in [Request::ListDevices(()), import(token)] {
                let mut raw = Raw::hello(&world.socket(), "does not read")?;
                disconnected_by(&mut raw, &request).with_context(|| request.name())?;
            }
        }
        Ok(())
    })
}

fn disconnected_by(raw: &mut Raw, request: &Request) -> Result<()> {
    for _ in 0..MANY {
        let (_, bytes) = raw.encoded(request, 0)?;
        match raw.send_bytes(&bytes, &[]) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("{MANY} requests, no answer read, and still connected")
}

/// Clients that are stopped in the middle of exports, imports and fences, and never go on.
pub(super) fn stopped(world: &mut World) -> Result<()> {
    under_attack(world, || {
        let card = world.egpu()?;
        let mut clients = Vec::new();
        for i in 0..STOPPED {
            clients.push(world.client(&format!("stopped-{i}"), User::Bob)?);
        }
        for client in &clients {
            let task = Task::Hammer { card: card.clone(), rounds: Some(u32::MAX), foreign: None };
            // It never ends.
            let _running = client.begin(task)?;
        }
        let device = world.device(&card)?.id;
        world.wait_counts_of(device, |device| device.buffers > 10)?;
        for client in &clients {
            let pid = client.process().0;
            kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
            eventually("it has stopped", BOUND, || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
                Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
            })?;
        }
        // One that comes now is served beside them.
        Raw::hello(&world.socket(), "comes now")?.devices()?;
        for client in clients {
            client.kill()?;
        }
        Ok(())
    })
}
