//! 5, the second half: the screen that freezes, and the removal that does not end, with the raw
//! fence and with its guard. The reason for which this project exists.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dmashare::{FenceOptions, Grant, ImportedFence};
use dmashare_uapi::sync_file::Status;
use drm::control::framebuffer;

use super::kms::Screen;
use super::pair::long_deadline_ms;
use crate::clock::human;
use crate::scenario::figures::{note, show};
use crate::uevents::Uevents;
use crate::{BOUND, Buffer, Card, Source, Unplug, World};

/// How long the raw fence is given. The kernel itself knows no bound.
const RAW: Duration = Duration::from_secs(10);

/// The guard of a source, as an importer has it.
fn guard(world: &World, card: &Card, source: &Source) -> Result<ImportedFence> {
    let connection = world.connect("compositor")?;
    // Not the primary one: whoever opens that first is the card's master, for as long as the broker
    // has it.
    let node = card.open_render()?;
    let deadline = match long_deadline_ms(world) {
        0 => None,
        ms => Some(Duration::from_millis(ms)),
    };
    let options = FenceOptions { deadline, ..FenceOptions::default() };
    let shared = connection.share_fence(node.as_fd(), source.fd(), options)?;
    let token = connection.grant(&shared, Grant::default())?;
    let fence = connection.import_fence(token)?;
    // The fence goes on without its exporter.
    shared.release()?;
    Ok(fence)
}

/// The iGPU shows a buffer of the eGPU's, after a fence that never comes.
pub(super) fn screen(world: &mut World) -> Result<()> {
    let mut source = Source::endless(false)?;
    let begun = Flip::begin(world, &source, source.fd())?;
    let raw = begun.done(RAW)?;
    ensure!(raw.is_none(), "the flip was done after {raw:?} ns with its fence pending");
    let busy = begun.screen.flip(begun.other, None).err().context("a commit passed another")?;
    let errno = busy.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    ensure!(errno == Some(libc::EBUSY), "a further commit gave {busy:#}");
    // So that the machine is of use again.
    source.signal()?;
    begun.done(BOUND)?.context("the flip was not done although its fence has ended")?;
    drop(begun);
    world.replug()?;

    let source = Source::endless(false)?;
    let fence = guard(world, &world.egpu()?, &source)?;
    let begun = Flip::begin(world, &source, fence.fd().context("the guard has ended")?)?;
    let guarded = begun.done(BOUND)?.context("the flip was not done although it has a guard")?;
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    begun.screen.flip(begun.other, None).context("the screen goes on")?;
    begun.screen.flipped(BOUND)?.context("the next flip was not done")?;
    tell("frozen screen", RAW, guarded);
    Ok(())
}

/// A flip that was queued on the iGPU before the eGPU was removed.
struct Flip {
    screen: Screen,
    other: framebuffer::Handle,
    removed_ns: u64,
}

impl Flip {
    fn begin(world: &World, source: &Source, fence: BorrowedFd<'_>) -> Result<Self> {
        let (egpu, igpu) = (world.egpu()?, world.igpu()?);
        let screen = Screen::open(&igpu)?;
        let (width, height) = screen.size();
        let own = screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?)?;
        let frame = screen.framebuffer(&Buffer::make(&egpu, width, height)?)?;
        screen.show(own)?;
        screen.flip(frame, Some(fence))?;
        let uevents = Uevents::listen()?;
        let devpath = egpu.devpath(egpu.primary())?;
        world.unplug(Unplug::Remove)?;
        let removed_ns = uevents.wait_removed(&devpath, BOUND)?.at_ns;
        ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
        Ok(Self { screen, other: own, removed_ns })
    }

    /// Nanoseconds from the card's removal to the flip.
    fn done(&self, bound: Duration) -> Result<Option<u64>> {
        let flipped = self.screen.flipped(bound)?;
        Ok(flipped.map(|at_ns| at_ns.saturating_sub(self.removed_ns)))
    }
}

/// A commit on the eGPU itself keeps the kernel from finishing its removal.
pub(super) fn removal(world: &mut World) -> Result<()> {
    // What it takes by itself.
    let free = remove_over_flip(world, None, BOUND, || Ok(()))?.context("a removal by itself")?;
    world.replug()?;

    let mut source = Source::endless(false)?;
    let raw_fence = source.fd().try_clone_to_owned()?;
    let raw = remove_over_flip(world, Some(raw_fence.as_fd()), RAW, || source.signal())?;
    ensure!(raw.is_none(), "the removal was done after {raw:?} ns with a fence pending");
    world.replug()?;

    let source = Source::endless(false)?;
    let fence = guard(world, &world.egpu()?, &source)?;
    let fence = fence.fd().context("the guard has ended")?;
    let guarded = remove_over_flip(world, Some(fence), BOUND, || Ok(()))?
        .context("the removal did not end although the fence has a guard")?;
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    show(format_args!("removal of the card, minor to PCI device: no fence: {}", human(free)));
    note("removal of the card, no fence, ns", free);
    tell("removal of the card, minor to PCI device", RAW, guarded);
    Ok(())
}

/// Nanoseconds from the minor's remove event to the PCI device's; `None` if that did not come in
/// time, but only after `end`.
fn remove_over_flip(
    world: &World,
    fence: Option<BorrowedFd<'_>>,
    bound: Duration,
    end: impl FnOnce() -> Result<()>,
) -> Result<Option<u64>> {
    let card = world.egpu()?;
    let screen = Screen::open(&card)?;
    let (width, height) = screen.size();
    let make = || screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?);
    screen.show(make()?)?;
    screen.flip(make()?, fence)?;
    let uevents = Uevents::listen()?;
    let minor = card.devpath(card.primary())?;
    let pci = card.sysfs.to_string_lossy().replacen("/sys", "", 1);
    std::thread::scope(|scope| {
        let unplug = scope.spawn(|| world.unplug(Unplug::Remove));
        let begun = uevents.wait_removed(&minor, BOUND)?.at_ns;
        let ended = uevents.wait_removed(&pci, bound).ok();
        end()?;
        uevents.wait_removed(&pci, BOUND).context("not even with the fence ended")?;
        unplug.join().map_err(|_| anyhow!("the unplug panicked"))??;
        Ok(ended.map(|ended| ended.at_ns.saturating_sub(begun)))
    })
}

fn tell(what: &str, raw: Duration, guarded: u64) {
    let raw = raw.as_secs_f64();
    show(format_args!("{what}: raw: not after {raw:.1} s; guarded: {}", human(guarded)));
    note(&format!("{what}, raw: not after, s"), raw);
    note(&format!("{what}, guarded, ns"), guarded);
}
