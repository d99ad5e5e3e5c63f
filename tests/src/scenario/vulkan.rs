//! The example `vulkan-share` on Mesa's lavapipe: before, at and after the unplug.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use dmashare::DeviceId;
use dmashare_uapi::sync_file::Status;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::desktop::{Watched, program};
use crate::scenario::figures::show;
use crate::{BOUND, Card, Source, Unplug, World};

/// The exporter's GPU hangs and is pulled while the importer is in vkWaitForFences. The memory belongs to
/// no GPU, and keeps what is in it.
pub(super) fn hangs(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let (mut share, source) = start_late(&card, &[])?;
    world.wait_counts(device, (0, 0, 1))?;
    wait_neutral(world, 1)?;

    world.unplug(Unplug::Remove)?;
    share.wait(BOUND, |line| line == "importer: stops after 30 good frames")?;
    share.wait(BOUND, |line| line == "importer: the neutral buffer holds frame 31")?;
    stops(world, &mut share, device)?;
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    wait_neutral(world, 0)?;
    works_again(world, "neutral")
}

/// It is pulled while frames go over, and its kernel driver made the memory: that is taken back too.
pub(super) fn pulled(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let mut share = start(&card, &["--memory", "card"])?;
    share.wait(BOUND, |line| line == "importer: 60 frames are good")?;
    world.wait_counts_of(device, |counts| (counts.buffers, counts.imports) == (1, 1))?;

    world.unplug(Unplug::Remove)?;
    share.wait(BOUND, |line| line.starts_with("importer: stops after"))?;
    stops(world, &mut share, device)?;
    works_again(world, "card")
}

fn start(card: &Card, arguments: &[&str]) -> Result<Watched> {
    let node = card.primary().to_string_lossy();
    let mut share = program("vulkan-share", &[&["--gpu", &node], arguments].concat())?;
    let first = share.wait(BOUND, |line| line.starts_with("exporter: "))?;
    ensure!(first.contains("llvmpipe"), "it is to run on lavapipe: {first}");
    Ok(share)
}

/// The same, with a frame whose fence is in the test's hand; the importer's queue waits for it by then.
fn start_late(card: &Card, arguments: &[&str]) -> Result<(Watched, Source)> {
    let source = Source::endless(false)?;
    let inherited = source.fd().try_clone_to_owned()?;
    fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty())).context("let a child inherit it")?;
    let late = format!("31:{}", inherited.as_raw_fd());
    let mut share = start(card, &[arguments, &["--late", &late]].concat())?;
    share.wait(BOUND, |line| line == "importer: 30 frames are good")?;
    share.wait(BOUND, |line| line.starts_with("importer: frame 31 is late; vkWaitForFences"))?;
    Ok((share, source))
}

/// Both say why, and end; nothing is left of the device.
fn stops(world: &World, share: &mut Watched, device: DeviceId) -> Result<()> {
    let lost = format!("device {device} is lost (unplugged)");
    let why = share.wait(BOUND, |line| line.starts_with("importer: "))?;
    ensure!(why.contains(&lost), "the importer stopped for another reason: {why}");
    show(format_args!("{why}"));
    let why = share.wait(BOUND, |line| line.starts_with("exporter: "))?;
    ensure!(why.contains(&lost), "the exporter stopped for another reason: {why}");
    ensure!(!share.ended(BOUND)?, "a loss is no success");
    world.wait_gone(device)
}

/// On the card that came back, a frame being late, and not lost.
fn works_again(world: &World, memory: &str) -> Result<()> {
    let (card, device) = world.replug()?;
    let (mut share, mut source) = start_late(&card, &["--frames", "45", "--memory", memory])?;
    source.signal()?;
    share.wait(BOUND, |line| line == "importer: stops after 45 good frames")?;
    ensure!(share.ended(BOUND)?, "it failed on the card that came back: {}", share.said());
    world.wait_counts(device, (0, 0, 0))?;
    wait_neutral(world, 0)
}

fn wait_neutral(world: &World, buffers: u32) -> Result<()> {
    world.bus().until("the count of neutral buffers", BOUND, |bus| {
        Ok((bus.broker_property::<u32>("NeutralBuffers")? == buffers).then_some(()))
    })
}
