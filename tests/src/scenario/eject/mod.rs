//! Ejects, over the bus: who is in the way, who is not, and what is left when one does not take place.

pub(super) mod polkit;
pub(super) mod real;
pub(super) mod stubborn;

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use dmashare::{
    Access, Cause, Connection, DeviceId, ErrorCode, Event, ExportedBuffer, Grant, ImportedBuffer,
    Importer, InhibitMode, LossPolicy, Protection,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zbus::zvariant::Value;

use super::figures::show;
use crate::bus::{Job, Refusal};
use crate::{BOUND, Buffer, Card, Unplug, World};

/// A timeout that passes in a scenario which is about that.
const SHORT: (&str, Value<'static>) = ("timeout-ms", Value::U32(1500));
/// One that does not.
const LONG: (&str, Value<'static>) = ("timeout-ms", Value::U32(60_000));

/// A program with a buffer of the eGPU, which it shares with itself.
struct Program {
    card: Card,
    device: DeviceId,
    connection: Connection,
}

impl Program {
    fn new(world: &World) -> Result<Self> {
        let connection = world.connect("program")?;
        let card = world.egpu()?;
        let device = world.arrived(&connection, &card)?;
        world.wait_device(device, "the device is on the bus", |device| device.is_some())?;
        Ok(Self { card, device, connection })
    }

    fn share(&self) -> Result<(ExportedBuffer, ImportedBuffer)> {
        let buffer = Buffer::make(&self.card, 64, 64)?;
        let planes = [buffer.dma_buf.as_fd()];
        let exported = self.connection.export(buffer.node.as_fd(), &buffer.layout, &planes)?;
        let token = self.connection.grant(&exported, Grant::default())?;
        Ok((exported, self.connection.import(token, Importer::Cpu)?))
    }
}

fn begun<'a>(world: &'a World, device: DeviceId, options: &[(&str, Value<'_>)]) -> Result<Job<'a>> {
    let job = world.bus().eject(device, options)?;
    job.map_err(|refusal| anyhow::anyhow!("it was refused: {refusal:?}"))
}

fn ends(job: &Job<'_>, wanted: &str) -> Result<String> {
    let (outcome, message) = job.wait_ended(BOUND)?;
    show(format_args!("{outcome}: {message}"));
    ensure!(outcome == wanted, "it ended as {outcome}, not as {wanted}: {message}");
    Ok(message)
}

fn refused<T>(result: Result<T, Refusal>, name: &str) -> Result<String> {
    match result {
        Err(refusal) if refusal.name == name => Ok(refusal.text),
        Err(refusal) => bail!("{refusal:?}, not {name}"),
        Ok(_) => bail!("it was not refused"),
    }
}

/// It is as it was before, and can be used.
fn is_as_before(world: &World, program: &Program) -> Result<()> {
    world.wait_device(program.device, "the device is present", |device| {
        device.is_some_and(|device| device.state == "present")
    })?;
    program.share().context("nothing can be shared any more").map(drop)
}

/// Ejected by now: brings the card back, as another device.
fn comes_back(world: &World, was: DeviceId) -> Result<DeviceId> {
    world.wait_gone(was)?;
    let watcher = world.connect("watcher")?;
    world.bus().attach()?;
    // Its nodes come one after another.
    let card = world.bring_back()?;
    let now = world.arrived(&watcher, &card)?;
    ensure!(now != was, "it came back as the same device");
    // The bus tells of what has just come a moment later than the socket.
    world.wait_device(now, "the device is on the bus", |device| device.is_some())?;
    Ok(now)
}

/// Nobody holds it.
pub(super) fn free(world: &mut World) -> Result<()> {
    let watcher = world.connect("watcher")?;
    let device = world.arrived(&watcher, &world.egpu()?)?;
    let dry = begun(world, device, &[("dry-run", Value::from(true))])?;
    ends(&dry, "would-eject")?;
    ensure!(world.device(&world.egpu()?)?.id == device, "a dry run has done something");

    let job = begun(world, device, &[LONG])?;
    let message = ends(&job, "ejected")?;
    ensure!(message.contains("safe to unplug"), "{message}");
    let stages = job.stages()?;
    show(format_args!("{}", stages.join(", ")));
    ensure!(
        stages.iter().is_sorted_by_key(|stage| {
            dmashare_proto::job::Stage::ALL.iter().position(|known| known.name() == stage)
        }) && stages.contains(&"removing".to_owned()),
        "{stages:?}"
    );
    world.wait_gone(device)?;
    let report = world.bus().report(device)?;
    ensure!(report.cause == Cause::Ejected, "it was lost as {:?}", report.cause);
    refused(world.bus().eject(device, &[])?, "DeviceLost").or_else(|error| {
        // Its object goes with it.
        let text = format!("{error:#}");
        if text.contains("Unknown") { Ok(text) } else { Err(error) }
    })?;
    let device = comes_back(world, device)?;
    let job = begun(world, device, &[LONG])?;
    ends(&job, "ejected")?;
    comes_back(world, device).map(drop)
}

/// A client that holds on; the same after it has said that it goes on without.
pub(super) fn client(world: &mut World) -> Result<()> {
    let program = Program::new(world)?;
    let held = program.share()?;
    let job = begun(world, program.device, &[SHORT])?;
    let message = ends(&job, "refused")?;
    let pid = std::process::id();
    ensure!(message.contains(&format!("(pid {pid},")), "it is not named: {message}");
    ensure!(message.contains("dma-buf"), "what it holds is not named: {message}");
    let found = job.holders()?;
    let own = found.processes.iter().find(|holder| holder.pid.unsigned_abs() == pid);
    let own = own.context("it is not among the holders")?;
    ensure!(own.clients.iter().any(|client| client.on_loss == "wait"), "{own:?}");
    let mut bytes = [0; 4];
    let mapped = held.1.map(0, Protection::Read)?;
    let bracket = mapped.begin(Access::Read)?;
    mapped.copy_to_slice(0, &mut bytes)?;
    bracket.end().context("a refused eject has taken something")?;
    is_as_before(world, &program)?;

    // While it drains nothing new is made, and what is there goes on.
    let job = begun(world, program.device, &[LONG])?;
    job.wait_stage("draining", BOUND, |_| true)?;
    let mut told = Vec::new();
    let error = program.share().err().context("something new was made")?;
    let code = error.downcast_ref::<dmashare::Error>().and_then(dmashare::Error::code);
    ensure!(code == Some(ErrorCode::DRAINING), "{error:#}");
    let bracket = mapped.begin(Access::Read)?;
    bracket.end()?;
    ensure!(job.cancel()?.is_ok(), "it was too late");
    ends(&job, "cancelled")?;
    // Clients are told of both: this one, and the one that was refused.
    while told.iter().filter(|stays| **stays).count() < 2 {
        let events = program.connection.dispatch(Some(BOUND))?;
        ensure!(!events.is_empty(), "it was not told that the device stays: {told:?}");
        told.extend(events.iter().filter_map(|event| match event {
            Event::RemovalRequested(_) => Some(false),
            Event::DeviceStays(it) => Some(*it == program.device),
            _ => None,
        }));
    }
    ensure!(told == [false, true, false, true], "{told:?}");
    is_as_before(world, &program)?;

    program.connection.declare(LossPolicy::Wait, true)?;
    let job = begun(world, program.device, &[SHORT])?;
    ends(&job, "ejected")?;
    // The kernel has removed it; the service learns of that by the same event as ever.
    let device = held.1.device().context("it is of no device")?;
    ensure!(device.wait_lost(Some(BOUND))?, "it is not lost");
    let error = mapped.begin(Access::Read).err().context("it can be used still")?;
    ensure!(error.is_device_lost(), "{error}");
    drop((mapped, held));
    comes_back(world, program.device).map(drop)
}

/// A client is told that it is to let go, has the last frame copied by the library, and lets go.
pub(super) fn keep(world: &mut World) -> Result<()> {
    let program = Program::new(world)?;
    let (exported, imported) = program.share()?;
    let frame = imported.map(0, Protection::ReadWrite)?;
    let bracket = frame.begin(Access::Write)?;
    frame.copy_from_slice(0, &[0x5a; 4096])?;
    bracket.end()?;
    imported.preserve_on_request(true);
    // Time alone would not let it go on: it drains for twenty minutes.
    let job = begun(world, program.device, &[("timeout-ms", Value::U32(3_600_000))])?;
    let copy = loop {
        let events = program.connection.dispatch(Some(BOUND))?;
        ensure!(!events.is_empty(), "nobody has asked");
        let asked = events.into_iter().find_map(|event| match event {
            Event::RemovalRequested(removal) => Some(removal),
            _ => None,
        });
        if let Some(asked) = asked {
            ensure!(asked.why.contains("an eject"), "{}", asked.why);
            let (_, copy) = asked.preserved.into_iter().next().context("nothing was kept")?;
            break copy?;
        }
    };
    ensure!(job.stage()? == "draining", "it has not waited");
    drop((frame, imported, exported));
    ends(&job, "ejected")?;
    let kept = copy.map(0, Protection::Read)?;
    let mut bytes = [0; 4096];
    let bracket = kept.begin(Access::Read)?;
    kept.copy_to_slice(0, &mut bytes)?;
    bracket.end()?;
    ensure!(bytes == [0x5a; 4096], "the kept frame has other pixels");
    comes_back(world, program.device).map(drop)
}

/// Delay locks are waited for, up to the limit; a block lock refuses.
pub(super) fn inhibitors(world: &mut World) -> Result<()> {
    let client = world.connect("recorder")?;
    let device = world.arrived(&client, &world.egpu()?)?;
    let delay = client.inhibit(Some(device), InhibitMode::Delay, "saving a file")?;
    let job = begun(world, device, &[LONG])?;
    let message = job.wait_stage("inhibited", BOUND, |message| message.contains("waits"))?;
    ensure!(message.contains("recorder") && message.contains("saving a file"), "{message}");
    delay.release()?;
    ends(&job, "ejected")?;

    let device = comes_back(world, device)?;
    let delay = client.inhibit(None, InhibitMode::Delay, "for ever")?;
    let job = begun(world, device, &[LONG])?;
    ends(&job, "ejected")?;
    delay.release()?;

    let device = comes_back(world, device)?;
    let block = client.inhibit(Some(device), InhibitMode::Block, "a recording")?;
    let job = begun(world, device, &[LONG])?;
    let message = ends(&job, "refused")?;
    ensure!(message.contains("recorder") && message.contains("a recording"), "{message}");
    block.release()?;
    ends(&begun(world, device, &[LONG])?, "ejected")?;
    comes_back(world, device).map(drop)
}

/// At each stage that can be waited in.
pub(super) fn cancel(world: &mut World) -> Result<()> {
    let program = Program::new(world)?;
    let held = program.share()?;
    let delay = program.connection.inhibit(None, InhibitMode::Delay, "a job")?;
    let job = begun(world, program.device, &[LONG])?;
    job.wait_stage("inhibited", BOUND, |message| message.contains("waits"))?;
    cancelled(world, &program, &job)?;
    delay.release()?;
    let job = begun(world, program.device, &[LONG])?;
    job.wait_stage("draining", BOUND, |_| true)?;
    cancelled(world, &program, &job)?;
    // Of its time a third is for draining.
    let job = begun(world, program.device, &[("timeout-ms", Value::U32(6000))])?;
    job.wait_stage("looking", BOUND, |message| message.contains("waits"))?;
    cancelled(world, &program, &job)?;
    drop(held);
    ends(&begun(world, program.device, &[LONG])?, "ejected")?;
    comes_back(world, program.device).map(drop)
}

fn cancelled(world: &World, program: &Program, job: &Job<'_>) -> Result<()> {
    ensure!(job.cancel()?.is_ok(), "it cannot be cancelled");
    ends(job, "cancelled")?;
    refused(job.cancel()?, "UnknownJob")?;
    is_as_before(world, program)
}

/// Two at once, and an unplug in the middle of one.
pub(super) fn race(world: &mut World) -> Result<()> {
    let program = Program::new(world)?;
    let held = program.share()?;
    let job = begun(world, program.device, &[LONG])?;
    let text = refused(world.bus().eject(program.device, &[])?, "Busy")?;
    ensure!(text.contains(&job.path), "the first one is not named: {text}");
    world.unplug(Unplug::Remove)?;
    ends(&job, "lost")?;
    drop(held);
    world.wait_gone(program.device)?;
    let report = world.bus().report(program.device)?;
    ensure!(report.cause == Cause::Unplugged, "it was lost as {:?}", report.cause);
    world.replug().map(drop)
}

/// The service ends in the middle: display servers are told that the card stays.
pub(super) fn restart(world: &mut World) -> Result<()> {
    let program = Program::new(world)?;
    let _held = program.share()?;
    let _card = File::open(program.card.primary()).context("the card")?;
    let options = [("timeout-ms", Value::U32(6000)), ("nudge", Value::from("always"))];
    {
        let job = begun(world, program.device, &options)?;
        world.bus().until("a job that has nudged", BOUND, |_| {
            Ok(job.stages()?.contains(&"looking".to_owned()).then_some(()))
        })?;
    }
    world.restart_broker()?;
    let times = |world: &World| -> Result<usize> {
        Ok(world.log_of_run()?.matches("an eject was interrupted by a restart").count())
    };
    ensure!(times(world)? == 1, "nothing was taken back");
    let program = Program::new(world)?;
    is_as_before(world, &program)?;
    let jobs: Vec<zbus::zvariant::OwnedObjectPath> = world.bus().broker_property("Jobs")?;
    ensure!(jobs.is_empty(), "{jobs:?}");
    world.restart_broker()?;
    // A simulated machine's log goes back to its beginning.
    ensure!(times(world)? == usize::from(world.is_simulated()), "it was taken back twice");
    Ok(())
}

/// What there is not, or what cannot be ejected.
pub(super) fn bad(world: &mut World) -> Result<()> {
    let igpu = world.device(&world.igpu()?)?.id;
    let text = refused(world.bus().eject(igpu, &[])?, "Unsupported")?;
    ensure!(text.contains("not on a PCI bus"), "{text}");
    let egpu = world.device(&world.egpu()?)?.id;
    for options in [
        [("force", Value::U32(3))],
        [("timeout-ms", Value::U32(0))],
        [("nudge", Value::from("maybe"))],
        [("hurry", Value::from(true))],
    ] {
        let text = refused(world.bus().eject(egpu, &options)?, "BadValue")?;
        ensure!(text.contains(options[0].0), "{text}");
    }
    world.wait_counts(egpu, (0, 0, 0))
}

/// The kernel does not come back: a FIFO stands for that.
pub(super) fn stuck(world: &mut World) -> Result<()> {
    let watcher = world.connect("watcher")?;
    let card = world.egpu()?;
    let device = world.arrived(&watcher, &card)?;
    let blocks = card.sysfs.join("blocks");
    mkfifo(&blocks, Mode::S_IRWXU)?;
    let job = begun(world, device, &[LONG])?;
    job.wait_stage("removing", BOUND, |message| message.contains("has not finished"))?;
    let text = refused(job.cancel()?, "TooLate")?;
    ensure!(text.contains("Attach"), "{text}");
    // Everybody else is served meanwhile.
    ensure!(!watcher.devices()?.is_empty());
    world.connect("another")?;
    drop(File::options().write(true).open(&blocks)?);
    ends(&job, "ejected")?;
    comes_back(world, device).map(drop)
}
