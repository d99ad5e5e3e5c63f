//! A reader copies a buffer in a loop over two hundred unplugs: no copy that was torn by one, or is of
//! zeros, is ever taken for good, and no read is met by a signal (the actor would be gone).

use anyhow::{Result, ensure};

use super::pair::Pair;
use crate::actor::{Copies, Task};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Unplug, World};

const CYCLES: u32 = 200;
/// Four megabytes: copying takes long enough to be met in the middle.
const EXTENT: u32 = 1024;

pub(super) fn run(world: &mut World) -> Result<()> {
    let mut pair = Pair::new(world)?;
    let mut all = Copies::default();
    for cycle in 0..CYCLES {
        // Never 0: that is what is there afterwards.
        let byte = 1 + (cycle % 255) as u8;
        let buffer = pair.share_buffer(world, EXTENT, EXTENT)?;
        pair.exporter.call(Task::Fill { key: buffer.exported, byte })?;
        let copying = pair.importer.begin(Task::CopyUntilLost { key: buffer.imported, byte })?;
        copying.at_it(BOUND)?;
        world.unplug(Unplug::Remove)?;
        let copies = copying.wait(BOUND)?.copies()?;
        ensure!(
            copies.wrong == 0,
            "cycle {cycle}: a copy was taken for good and is not: {copies:?}"
        );
        ensure!(copies.good >= 3, "cycle {cycle}: {copies:?}");
        all += copies;
        pair.importer.call(Task::AwaitLoss { device: pair.device })?;
        pair.importer.call(Task::Release { key: buffer.imported })?;
        pair.exporter.call(Task::Release { key: buffer.exported })?;
        world.wait_gone(pair.device)?;
        (pair.card, pair.device) = world.replug()?;
    }
    let Copies { good, torn, refused, .. } = all;
    show(format_args!(
        "{CYCLES} unplugs, {good} good copies; refused by `end`: {torn} torn, {refused} whole"
    ));
    note("copies torn by the unplug and refused", torn);
    ensure!(torn > 0, "no unplug met a copy in the middle, so nothing was shown: {all:?}");
    Ok(())
}
