//! Guards of vgem: a fence on a small buffer, exported as a sync_file. It cannot show an error.
//!
//! It cannot be longer than the kernel has it either. What was handed out is the fence itself, in a
//! GPU's queue or in somebody's poll, and nothing can put a fresh one in its place; so a guard whose
//! source takes longer ends with a timeout, and a longer deadline is refused when it is asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::message::GuardKind;
use dmashare_uapi::vgem::{FENCE_LIFETIME, GuardPool};

use super::{Ender, Guard, GuardBackend};

/// The kernel ends a vgem fence after [`FENCE_LIFETIME`], as ok. A guard must end before that by its
/// own deadline, or its waiters would take a timeout for success.
const MARGIN: Duration = Duration::from_millis(500);

struct Vgem {
    pool: Arc<GuardPool>,
}

pub(super) fn open() -> io::Result<Box<dyn GuardBackend>> {
    Ok(Box::new(Vgem { pool: GuardPool::open()? }))
}

impl GuardBackend for Vgem {
    fn kind(&self) -> GuardKind {
        GuardKind::Vgem
    }

    fn make(&self) -> io::Result<Guard> {
        let (guard, fence) = self.pool.guard()?;
        Ok(Guard { fence, ender: Ender::Vgem(guard) })
    }

    fn longest(&self) -> Option<Duration> {
        Some(FENCE_LIFETIME - MARGIN)
    }
}
