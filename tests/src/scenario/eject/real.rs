//! What only a real kernel can show: its removals, and compositors that have never heard of the broker.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{FenceOptions, Grant, LossPolicy};
use dmashare_proto::holders::{Holder, Role as Part, What};
use dmashare_uapi::sync_file::Status;
use zbus::zvariant::Value;

use super::{LONG, Program, begun, comes_back, ends, refused};
use crate::desktop::{Desktop, Kind};
use crate::process::eventually;
use crate::scenario::figures::show;
use crate::scenario::kms::Screen;
use crate::uevents::Uevents;
use crate::{BOUND, Buffer, Role, Source, World};

/// The card's sound goes before the card.
pub(crate) fn sibling(world: &mut World) -> Result<()> {
    let watcher = world.connect("watcher")?;
    let card = world.egpu()?;
    let device = world.arrived(&watcher, &card)?;
    let slot = card.pci.rsplit_once('.').context("an address without a function")?.0;
    let sound = std::path::Path::new("/sys/bus/pci/devices").join(format!("{slot}.1"));
    ensure!(sound.exists(), "{} is not there; this shows nothing", sound.display());
    let devpath = |path: &std::path::Path| -> Result<String> {
        Ok(path.canonicalize()?.to_string_lossy().replacen("/sys", "", 1))
    };
    let (gpu, beside) = (devpath(&card.sysfs)?, devpath(&sound)?);
    let bridge = card.sysfs.canonicalize()?.parent().context("no bridge")?.to_owned();
    let uevents = Uevents::listen()?;
    let job = begun(world, device, &[LONG])?;
    ends(&job, "ejected")?;
    let sound_ns = uevents.wait_removed(&beside, BOUND)?.at_ns;
    let gpu_ns = uevents.wait_removed(&gpu, BOUND)?.at_ns;
    ensure!(sound_ns < gpu_ns, "the GPU went before its sound");
    ensure!(bridge.exists(), "the bridge has gone too");
    comes_back(world, device)?;
    ensure!(sound.exists(), "the sound has not come back");
    Ok(())
}

/// A display commit on the card with a fence that nobody ends: the kernel waits for it in the middle of the
/// removal.
pub(crate) fn blocked(world: &mut World) -> Result<()> {
    // A guard is ended by the loss, and sets the kernel free.
    let source = Source::endless(false)?;
    let program = Program::new(world)?;
    program.connection.declare(LossPolicy::Wait, true)?;
    {
        let node = program.card.open_render()?;
        let options = FenceOptions::default();
        let shared = program.connection.share_fence(node.as_fd(), source.fd(), options)?;
        let token = program.connection.grant(&shared, Grant::default())?;
        let fence = program.connection.import_fence(token)?;
        let _screen = flip(&program, fence.fd().context("the guard has ended")?)?;
        let job = begun(world, program.device, &[LONG])?;
        ends(&job, "ejected").context("with a guard")?;
        ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    }
    comes_back(world, program.device).context("after the guard")?;
    show(format_args!("the guard was ended, and the card is back"));

    // A raw fence is not: everybody else is served, and one is told where it hangs.
    let mut source = Source::endless(false)?;
    let program = Program::new(world)?;
    program.connection.declare(LossPolicy::Wait, true)?;
    let screen = flip(&program, source.fd())?;
    let job = begun(world, program.device, &[LONG])?;
    let message =
        job.wait_stage("removing", BOUND, |message| message.contains("has not finished"))?;
    show(format_args!("{message}"));
    ensure!(message.contains(", in "), "it is not told where: {message}");
    refused(job.cancel()?, "TooLate")?;
    let another = world.connect("another")?;
    ensure!(!another.devices()?.is_empty(), "nobody is served meanwhile");
    let igpu = world.device(&world.igpu()?)?.id;
    refused(world.bus().eject(igpu, &[])?, "Unsupported")?;
    show(format_args!("everybody else is served"));
    source.signal()?;
    ends(&job, "ejected").context("with the fence ended")?;
    drop(screen);
    comes_back(world, program.device).map(drop)
}

/// The service ends while the kernel hangs in the removal: that goes on in the helper, and who comes after
/// sees what there is.
pub(crate) fn restarted(world: &mut World) -> Result<()> {
    let mut source = Source::endless(false)?;
    let program = Program::new(world)?;
    program.connection.declare(LossPolicy::Wait, true)?;
    let screen = flip(&program, source.fd())?;
    let pci = program.card.sysfs.canonicalize()?.to_string_lossy().replacen("/sys", "", 1);
    let uevents = Uevents::listen()?;
    {
        let job = begun(world, program.device, &[LONG])?;
        job.wait_stage("removing", BOUND, |message| message.contains("has not finished"))?;
    }
    // It waits for all the cards, and one of them is on its way out.
    let restarted = world.restart_broker();
    ensure!(restarted.is_err(), "the card is there as ever");
    world.bus().until("the service is back", BOUND, |bus| Ok(bus.is_owned()?.then_some(())))?;
    let devices = world.bus().devices()?;
    ensure!(devices.iter().all(|device| device.pci != program.card.pci), "{devices:?}");
    ensure!(uevents.wait_removed(&pci, Duration::ZERO).is_err(), "the kernel did not wait");
    source.signal()?;
    uevents.wait_removed(&pci, BOUND).context("the helper has not gone on")?;
    drop((screen, program));
    let watcher = world.connect("watcher")?;
    world.bus().attach()?;
    let card = world.bring_back()?;
    world.arrived(&watcher, &card).map(drop)
}

/// The card's screen, with a flip that waits for a fence.
fn flip(program: &Program, fence: BorrowedFd<'_>) -> Result<Screen> {
    let screen = Screen::open(&program.card)?;
    let (width, height) = screen.size();
    let make = || screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?);
    screen.show(make()?)?;
    screen.flip(make()?, Some(fence))?;
    Ok(screen)
}

/// sway has the card for further screens. It lets go when it is told, and takes the card up again.
pub(crate) fn sway(world: &mut World) -> Result<()> {
    lets_go(world, Kind::Sway)
}

/// The same for weston.
pub(crate) fn weston(world: &mut World) -> Result<()> {
    lets_go(world, Kind::Weston)
}

fn lets_go(world: &World, kind: Kind) -> Result<()> {
    let watcher = world.connect("watcher")?;
    let (card, screen) = (world.egpu()?, world.card(Role::Stay)?);
    let device = world.arrived(&watcher, &card)?;
    let mut desktop = Desktop::start_also_on(kind, &screen, Some(&card))?;
    let pid = desktop.process().0;
    let of_it = |holders: &[Holder]| holders.iter().find(|it| it.pid == pid).cloned();
    let before = world.bus().holders(device)?.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let holder = of_it(&before.processes).with_context(|| format!("no {pid} in {before:#?}"))?;
    show(format_args!("{} holds {}", kind.name(), told(&holder)));
    ensure!(holder.command == kind.name() && holder.user == "root", "{holder:?}");
    ensure!(holder.role == Part::Compositor, "{holder:?}");
    ensure!(has_node(&holder, &card.primary().to_string_lossy()), "{holder:?}");

    // One that does not take place: it is told that the card stays.
    let program = Program::new(world)?;
    let buffer = program.share()?;
    let job = begun(world, device, &[("timeout-ms", Value::U32(3000))])?;
    ends(&job, "refused")?;
    drop(buffer);
    let node = card.primary().to_string_lossy().into_owned();
    let mut seen = Vec::new();
    eventually("it has the card again", BOUND, || {
        seen = world.bus().holders(device)?.map_err(|why| anyhow::anyhow!("{why:?}"))?.processes;
        Ok(of_it(&seen).is_some_and(|holder| has_node(&holder, &node) && holder.is_active()))
    })
    .with_context(|| format!("{seen:?}\n{}", desktop.log()))?;
    let again = of_it(&seen).context("it has just been there")?;
    show(format_args!("after one that was refused {} holds {}", kind.name(), told(&again)));

    let job = begun(world, device, &[("timeout-ms", Value::U32(20_000))])?;
    let (outcome, message) = job.wait_ended(BOUND)?;
    let last = of_it(&job.holders()?.processes);
    let kept = last.as_ref().map_or_else(|| "nothing".to_owned(), told);
    show(format_args!("{}: {outcome}: {message}", kind.name()));
    show(format_args!("{} kept {kept}", kind.name()));
    desktop.is_alive()?;
    match outcome.as_str() {
        "ejected" => {
            let device = comes_back(world, device)?;
            let node = world.egpu()?.primary().to_string_lossy().into_owned();
            eventually("it has the card that came", BOUND, || {
                seen = world
                    .bus()
                    .holders(device)?
                    .map_err(|why| anyhow::anyhow!("{why:?}"))?
                    .processes;
                Ok(of_it(&seen).is_some_and(|it| has_node(&it, &node) && it.is_active()))
            })
            .with_context(|| format!("{seen:?}\n{}", desktop.log()))?;
            desktop.is_alive()?;
        }
        "refused" => {
            ensure!(message.contains(kind.name()), "who holds on is not named: {message}");
            let there = world.bus().device(device)?.context("the device is not there")?;
            ensure!(there.state == "present", "{there:?}");
            // What draws the screen is ended only if that is said twice.
            let once = [("timeout-ms", Value::U32(3000)), ("force", Value::U32(1))];
            let message = ends(&begun(world, device, &once)?, "refused")?;
            ensure!(message.contains("--force twice"), "{message}");
            desktop.is_alive()?;
            let twice = [("timeout-ms", Value::U32(3000)), ("force", Value::U32(2))];
            ends(&begun(world, device, &twice)?, "ejected")?;
            ensure!(desktop.is_alive().is_err(), "{} lives on", kind.name());
            comes_back(world, device)?;
            return Ok(());
        }
        _ => anyhow::bail!("it ended as {outcome}: {message}"),
    }
    ensure!(kind != Kind::Sway || outcome == "ejected", "sway lets go, as was measured: {message}");
    Ok(())
}

fn has_node(holder: &Holder, node: &str) -> bool {
    holder.holds.iter().any(|held| matches!(&held.what, What::Node { path, .. } if path == node))
}

fn told(holder: &Holder) -> String {
    let held = holder.holds.iter().map(|held| {
        let what = match &held.what {
            What::Node { path, .. } | What::Mapping { path, .. } => path.clone(),
            What::DmaBuf { exporter, .. } => format!("a dma-buf by {exporter}"),
            other => format!("{other:?}"),
        };
        let active = if held.active.is_empty() { "idle" } else { &held.active };
        format!("{what} ({} fds, {} mappings: {active})", held.fds, held.mappings)
    });
    held.collect::<Vec<_>>().join(", ")
}
