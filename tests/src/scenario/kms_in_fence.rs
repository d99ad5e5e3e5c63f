//! A guard as the in-fence of a page flip: the iGPU shows a frame of the eGPU's when its source has
//! ended, and when the eGPU is gone.

use anyhow::{Context, Result, ensure};
use dmashare::Cause;
use dmashare_uapi::sync_file::{self, Status};

use super::kms::Screen;
use super::local::{Local, ends_by, ends_well, fd, pends};
use crate::clock::{human, now_ns};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Buffer, Source, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let local = Local::new(world)?;
    let screen = Screen::open(&world.igpu()?)?;
    let (width, height) = screen.size();
    let own = screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?)?;
    let frame = screen.framebuffer(&Buffer::make(&local.card, width, height)?)?;
    screen.show(own)?;
    // The kernel takes no second commit while the first one waits for its fence.
    let waits = || {
        let busy = screen.flip(own, None).err().context("a commit passed one that waits")?;
        let errno = busy.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        ensure!(errno == Some(libc::EBUSY), "a further commit gave {busy:#}");
        Ok(())
    };

    let mut source = Source::endless(false)?;
    let shared = local.share(source.fd())?;
    let fence = local.import(&shared)?;
    screen.flip(frame, Some(fd(&fence)?))?;
    waits()?;
    pends(&shared, &fence)?;
    let signalled_ns = now_ns();
    source.signal()?;
    let flipped_ns = screen.flipped(BOUND)?.context("the source ended, and nothing is shown")?;
    ends_well(&fence)?;
    let ended_ns = ended_ns(&fence)?;
    ensure!(ended_ns <= flipped_ns, "the flip was done before the guard had ended");
    screen.flip(own, None).context("the screen goes on")?;
    screen.flipped(BOUND)?.context("the next flip was not done")?;

    let source = Source::endless(false)?;
    let fence = local.guard(source.fd())?;
    screen.flip(frame, Some(fd(&fence)?))?;
    waits()?;
    let unplugged_ns = now_ns();
    world.unplug(Unplug::Remove)?;
    let freed_ns = screen.flipped(BOUND)?.context("the eGPU is gone, and the flip still waits")?;
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    ends_by(world, &fence, Cause::Unplugged)?;
    screen.flip(own, None).context("the screen goes on")?;
    screen.flipped(BOUND)?.context("the next flip was not done")?;

    let (by_source, by_loss) =
        (flipped_ns.saturating_sub(signalled_ns), freed_ns.saturating_sub(unplugged_ns));
    show(format_args!(
        "flip done after the source's end: {}; after the pull: {}",
        human(by_source),
        human(by_loss)
    ));
    note("source signalled to flip done, ns", by_source);
    note("pull begun to flip done, ns", by_loss);
    Ok(())
}

/// When the kernel signalled a guard.
fn ended_ns(fence: &dmashare::ImportedFence) -> Result<u64> {
    let info = sync_file::info(fd(fence)?)?;
    info.fences.iter().map(|fence| fence.timestamp_ns).max().context("a sync_file of no fence")
}
