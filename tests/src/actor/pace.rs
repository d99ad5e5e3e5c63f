//! A producer and a consumer that share a frame in a steady rhythm, as two ends of a display do: how
//! long does each share take?

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dmashare::{Connection, FenceOptions, FenceStatus, Grant, Importer};
use dmashare_uapi::sync_file;
use serde::{Deserialize, Serialize};

use crate::{BOUND, Buffer, Card, Source};

/// From the end of a frame to the beginning of the next one: the rhythm.
const REST: Duration = Duration::from_millis(1);
const SIDE: u32 = 16;

/// How long sharing took: a buffer exported, granted and imported, which is three round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Frames that were exchanged.
    pub frames: usize,
    /// Microseconds, of the frame in the middle.
    pub median_us: u64,
    /// Microseconds, which one frame of a thousand takes longer than.
    pub p999_us: u64,
    /// Microseconds, of the worst frame.
    pub worst_us: u64,
}

/// Two connections, and a source of fences that is at hand.
struct Ends {
    producer: Connection,
    consumer: Connection,
    buffer: Buffer,
    simulated: bool,
}

/// Exchanges frames until the pipe has hung up, and `enough` of them at least; says `at_it` when it
/// has exchanged enough.
pub(super) fn keep_pace(
    socket: &Path,
    card: &Card,
    enough: usize,
    pipe: BorrowedFd<'_>,
    at_it: impl Fn(),
) -> Result<Pace> {
    let connect = |name: &str| Connection::builder().name(name).connect_to(socket);
    let ends = Ends {
        producer: connect("pace-producer")?,
        consumer: connect("pace-consumer")?,
        buffer: Buffer::make(card, SIDE, SIDE)?,
        simulated: card.simulated,
    };
    let mut taken = Vec::new();
    loop {
        let frame = ends.frame().with_context(|| format!("frame {}", taken.len()))?;
        taken.push(u64::try_from(frame.as_micros())?);
        if taken.len() == enough {
            at_it();
        }
        let over = sync_file::wait(pipe, Some(REST))?;
        if over && taken.len() >= enough {
            break;
        }
    }
    taken.sort_unstable();
    // The least that at most one of a thousand exceeds.
    let at = |per_mille: usize| taken[(taken.len() * per_mille).div_ceil(1000) - 1];
    let worst_us = at(1000);
    Ok(Pace { frames: taken.len(), median_us: at(500), p999_us: at(999), worst_us })
}

impl Ends {
    /// A buffer and a fence go over and are used, and all is given back.
    fn frame(&self) -> Result<Duration> {
        let node = self.buffer.node.as_fd();
        let planes = [self.buffer.dma_buf.as_fd()];
        let begin = Instant::now();
        let export = self.producer.export(node, &self.buffer.layout, &planes).context("export")?;
        let token = self.producer.grant(&export, Grant::default()).context("grant")?;
        let import = self.consumer.import(token, Importer::Cpu).context("import")?;
        let took = begin.elapsed();

        let mut source = Source::vgem(self.simulated)?;
        let options = FenceOptions::default();
        let shared = self.producer.share_fence(node, source.fd(), options).context("fence")?;
        let token = self.producer.grant(&shared, Grant::default()).context("fence's grant")?;
        let fence = self.consumer.import_fence(token).context("fence's import")?;
        source.signal()?;
        let end = fence.wait(Some(BOUND)).context("wait")?;
        ensure!(matches!(end, FenceStatus::Ok { .. }), "the fence ended with {end:?}");
        fence.release().context("fence's release")?;
        shared.release().context("shared fence's release")?;
        import.release().context("import's release")?;
        export.release().context("export's release")?;
        Ok(took)
    }
}
