//! Runs the demo: starts everybody, pulls the eGPU, and gathers what they saw.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dmashare::DeviceId;
use dmashare_proto::report::{Step, UnplugReport};
use dmasharectl::bus::{Broker, Snapshot};
use dmasharectl::model::{Device, DeviceCounts};

use super::lines::Said;
use super::measured::{Left, Measured};
use super::options::{PartOptions, RunOptions};
use super::part::Part;
use super::producer::PERIOD;
use super::story;
use super::watch::Watch;
use crate::clock::now_ns;
use crate::{BOUND, Backend, Card, Machine, Unplug, World};

/// Runs all of it, and prints what happens while it does.
///
/// # Errors
/// Anything that the demo does not expect.
pub fn run(options: &RunOptions) -> Result<Measured> {
    story::title();
    let backend = match options.machine {
        Machine::Simulated => Backend::Simulated,
        Machine::Vm => Backend::SwSync,
    };
    if options.machine == Machine::Vm {
        // The times are to be of the unplug, and not of a boot that goes on in the background. That some
        // unit has failed does not matter here.
        drop(Command::new("systemctl").args(["is-system-running", "--wait"]).output());
    }
    let world = World::start(backend, "")?;
    let bus = world.bus_address().parse().map_err(anyhow::Error::msg)?;
    let broker = Broker::connect(&bus)?;
    let snapshot = broker.snapshot()?;
    let (egpu_card, igpu_card) = (world.egpu()?, world.igpu()?);
    let egpu = device(&snapshot, &egpu_card)?;
    let igpu = device(&snapshot, &igpu_card)?;
    let id = DeviceId(egpu.id);
    let service = broker.service()?;
    story::cast(options.machine, &service, &egpu, &igpu);

    let dir = tempfile::Builder::new().prefix("dmashare-demo-").tempdir()?;
    let part = |card: &Card| PartOptions {
        machine: options.machine,
        socket: world.socket(),
        node: card.primary().to_owned(),
        frames_socket: dir.path().join("frames.sock"),
        frames: options.frames,
    };
    let mut consumer = Part::start("consumer", &part(&igpu_card))?;
    ready(&mut consumer)?;
    let mut bystander = Part::start("bystander", &part(&igpu_card))?;
    ready(&mut bystander)?;
    let mut producer = Part::start("producer", &part(&egpu_card))?;
    let exported = ready(&mut producer)?;
    story::started("producer", producer.pid(), "eGPU", &format!("{exported} buffers exported"));
    let imported = ready(&mut consumer)?;
    let imported = format!("the {imported} buffers imported by token");
    story::started("consumer", consumer.pid(), "iGPU", &imported);
    let handed = ready(&mut bystander)?;
    let handed = format!("the {handed} dma-bufs themselves, without the broker");
    story::started("bystander", bystander.pid(), "iGPU", &handed);

    let watch = Watch::start(&bus, egpu.id)?;
    let Said::Waiting(sharing) = consumer.said()? else { bail!("the consumer skips its frames") };
    let Said::Waits = bystander.said()? else { bail!("the bystander does not wait") };
    story::shared(&sharing);
    let before = DeviceCounts { buffers: 3, imports: 3, fences: 1, ..DeviceCounts::default() };
    // D-Bus is told at most every 100 ms.
    world.wait_counts(id, (before.buffers, before.imports, before.fences))?;
    story::before(&before, &sharing);

    story::pulled(options.machine);
    // The middle of the frame's time.
    sleep(PERIOD / 2);
    let pulled_ns = now_ns();
    world.unplug(Unplug::Remove)?;
    let Said::Consumer(saw) = consumer.said()? else { bail!("the consumer has no story") };
    producer.go_on()?;
    let Said::Producer(drew) = producer.said()? else { bail!("the producer has no story") };
    let signal = watch.lost()?;
    world.wait_gone(id)?;
    let report = settled(
        BOUND,
        || report(&broker, egpu.id),
        |report| report.at(Step::Gone).is_some() && report.at(Step::ParentRemoved).is_some(),
    )?;
    let pids = [producer.pid(), consumer.pid()];
    let left =
        settled(BOUND, || Ok(left(&broker.snapshot()?, egpu.id, pids)), |left| !left.is_held())?;
    let Said::Bystander(without) = bystander.said()? else { bail!("the bystander has no story") };
    producer.end()?;
    consumer.end()?;
    bystander.end()?;
    Ok(Measured {
        service,
        egpu,
        igpu,
        frames: options.frames,
        sharing,
        pulled_ns,
        report,
        signal,
        producer: drew,
        consumer: saw,
        bystander: without,
        left,
    })
}

fn ready(part: &mut Part) -> Result<usize> {
    match part.said()? {
        Said::Ready(buffers) => Ok(buffers),
        other => bail!("said before it was ready: {other:?}"),
    }
}

fn device(snapshot: &Snapshot, card: &Card) -> Result<Device> {
    let node = card.primary().to_string_lossy();
    let has = |device: &&Device| device.nodes.iter().any(|have| *have == node);
    let device = snapshot.devices.iter().find(has).cloned();
    device.with_context(|| format!("the broker has no device of {node}"))
}

fn report(broker: &Broker, device: u64) -> Result<UnplugReport> {
    let report = broker.reports()?.into_iter().find(|report| report.device.0 == device);
    report.with_context(|| format!("there is no report on device {device}"))
}

/// What `look` gives when it is `good`, or when the time is up: then a claim will not hold. It looks
/// again and again, since D-Bus is told at most every 100 ms, and of a report's last steps by no
/// signal.
fn settled<T>(
    bound: Duration,
    mut look: impl FnMut() -> Result<T>,
    good: impl Fn(&T) -> bool,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        let found = look()?;
        if good(&found) || Instant::now() > end {
            return Ok(found);
        }
        sleep(Duration::from_millis(20));
    }
}

fn left(snapshot: &Snapshot, device: u64, pids: [u32; 2]) -> Left {
    let mut counts = DeviceCounts::default();
    for device in &snapshot.devices {
        counts.buffers += device.counts.buffers;
        counts.imports += device.counts.imports;
        counts.fences += device.counts.fences;
        counts.timelines += device.counts.timelines;
        counts.implicit_fences += device.counts.implicit_fences;
    }
    let clients = snapshot.clients.iter().filter(|client| pids.contains(&client.pid));
    Left {
        device: snapshot.devices.iter().any(|other| other.id == device),
        counts,
        clients: clients.cloned().collect(),
    }
}
