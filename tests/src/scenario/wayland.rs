//! The example `wayland-producer` on unmodified compositors: before, at and after the unplug.

use anyhow::{Context, Result, ensure};

use crate::desktop::{Desktop, Kind, Screenshot, Watched};
use crate::scenario::figures::show;
use crate::{BOUND, Process, Role, Unplug, World};

/// As the example paints them: the left half, and the right half of even and odd frames.
const GPU: (u32, [u32; 2]) = (0x20_40c0, [0x10_a040, 0x20_b050]);
const FALLBACK: (u32, [u32; 2]) = (0xd0_7010, [0xb0_2020, 0xc0_3030]);
/// The eGPU's driver. The iGPU has another one.
const DRIVER: &str = "virtio_gpu";

/// weston shows a buffer of the eGPU, which its renderer reads through the iGPU.
pub(super) fn weston(world: &mut World) -> Result<()> {
    shows_and_goes_on(world, Kind::Weston, Role::Igpu)
}

/// The same on sway.
pub(super) fn sway(world: &mut World) -> Result<()> {
    shows_and_goes_on(world, Kind::Sway, Role::Igpu)
}

/// The eGPU draws into buffers of the compositor's card, and sway waits for the points of its timeline.
pub(super) fn explicit(world: &mut World) -> Result<()> {
    shows_and_goes_on(world, Kind::Sway, Role::Stay)
}

/// The same, but the compositor waits for a frame that will never be drawn: until the unplug nothing is
/// shown after it, and the unplug sets it free.
pub(super) fn half_drawn(world: &mut World) -> Result<()> {
    const HANGS: u32 = 61;
    let (card, screen) = (world.egpu()?, world.card(Role::Stay)?);
    let device = world.device(&card)?.id;
    let mut desktop = Desktop::start(Kind::Sway, &screen)?;
    let [gpu, into] = [&card, &screen].map(|card| card.primary().to_string_lossy().into_owned());
    let arguments = ["--gpu", &gpu, "--into", &into, "--hang", &HANGS.to_string()];
    let mut client = desktop.client("wayland-producer", &arguments)?;
    client.wait(BOUND, |line| line.starts_with(&format!("frame {HANGS} hangs")))?;
    let shown = (GPU.0, [GPU.1[(HANGS as usize - 1) % 2]; 2]);
    check(&desktop.screenshot("sway-half-drawn-before")?, shown).context("the frame before it")?;

    world.unplug(Unplug::Remove)?;
    client.wait(BOUND, |line| line.starts_with("fell back"))?;
    frames(&mut client, "of no GPU", 30)?;
    check(&desktop.screenshot("sway-half-drawn-after")?, FALLBACK).context("after the unplug")?;
    desktop.is_alive()?;
    world.wait_gone(device)?;
    show(format_args!("sway waited for frame {HANGS}, and then: {}", last(&client)));
    Ok(())
}

fn shows_and_goes_on(world: &World, kind: Kind, on: Role) -> Result<()> {
    let (card, screen) = (world.egpu()?, world.card(on)?);
    let device = world.device(&card)?.id;
    let mut desktop = Desktop::start(kind, &screen)?;
    let gpu = card.primary().to_string_lossy().into_owned();
    let into = screen.primary().to_string_lossy().into_owned();
    let mut arguments = vec!["--gpu", &gpu];
    // A virtio-gpu imports nobody's buffers, so there they are its own.
    let is_explicit = on == Role::Stay;
    if is_explicit {
        arguments.extend(["--into", &into]);
    }
    let mut client = desktop.client("wayland-producer", &arguments)?;
    let said = client.wait(BOUND, |line| line.starts_with("compositor takes dma-bufs"))?;
    let sync = if is_explicit { "explicit" } else { "implicit" };
    ensure!(said.ends_with(sync), "{} is to have {sync} synchronization: {said}", kind.name());
    frames(&mut client, "of the GPU", 60)?;
    let timelines = if is_explicit { 2 } else { 0 };
    world.wait_counts_of(device, |counts| {
        counts.timelines == timelines && counts.buffers == if is_explicit { 0 } else { 3 }
    })?;
    let name = format!("{}-{sync}", kind.name());
    let before = desktop.screenshot(&format!("{name}-before"))?;
    check(&before, GPU).context("before the unplug")?;
    if !is_explicit {
        let there = desktop.process().dma_bufs_by(DRIVER)?;
        ensure!(there >= 3, "{} has {there} of the eGPU's 3 buffers", kind.name());
    }
    let sockets = client.process().sockets()?;

    world.unplug(Unplug::Remove)?;
    client.wait(BOUND, |line| line.starts_with("fell back"))?;
    frames(&mut client, "of no GPU", 30)?;
    let after = desktop.screenshot(&format!("{name}-after"))?;
    check(&after, FALLBACK).context("after the unplug")?;
    desktop.is_alive()?;
    ensure!(client.process().sockets()? == sockets, "the client has connected anew");
    world.wait_gone(device)?;
    let mut kept = String::new();
    if !is_explicit {
        let left = |process: Process| process.dma_bufs_by(DRIVER);
        ensure!(left(client.process())? == 0, "the client has buffers of the eGPU still");
        // What its GL drew of last it keeps until it draws of something else, and that is its own affair.
        kept =
            format!("; the compositor has {} of the buffers open still", left(desktop.process())?);
    }
    show(format_args!("{} with {sync} synchronization: {}{kept}", kind.name(), last(&client)));
    Ok(())
}

/// Waits until so many more frames were shown.
fn frames(client: &mut Watched, of: &str, more: u64) -> Result<()> {
    let number = |line: &str| -> Option<u64> {
        let (number, rest) = line.strip_prefix("frame ")?.split_once(' ')?;
        number.parse().ok().filter(|_| rest == of)
    };
    let first = client.wait(BOUND, |line| number(line).is_some())?;
    let first = number(&first).context("a number")?;
    client.wait(BOUND, |line| number(line).is_some_and(|frame| frame >= first + more))?;
    Ok(())
}

/// Looks at the middle of the screen, where the window is however large it is.
fn check(shot: &Screenshot, (left, right): (u32, [u32; 2])) -> Result<()> {
    let (x, y) = (shot.width / 2, shot.height / 2);
    let (is_left, is_right) = (shot.pixel(x - 100, y), shot.pixel(x + 100, y));
    ensure!(
        is_left == left && right.contains(&is_right),
        "the screen shows {is_left:06x} and {is_right:06x}, not {left:06x} and {right:06x?}"
    );
    Ok(())
}

fn last(client: &Watched) -> String {
    client.said().lines().last().unwrap_or_default().to_owned()
}
