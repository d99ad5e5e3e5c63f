//! Guards of sw_sync: one timeline each, because closing a timeline ends all of its fences.

use std::io;
use std::path::{Path, PathBuf};

use dmashare_proto::message::GuardKind;
use dmashare_uapi::sw_sync::Timeline;

use super::{Ender, Guard, GuardBackend};

struct SwSync {
    path: PathBuf,
}

pub(super) fn open(path: &Path) -> io::Result<Box<dyn GuardBackend>> {
    let backend = SwSync { path: path.to_owned() };
    backend
        .make()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(Box::new(backend))
}

impl GuardBackend for SwSync {
    fn kind(&self) -> GuardKind {
        GuardKind::SwSync
    }

    fn make(&self) -> io::Result<Guard> {
        let timeline = Timeline::create_at(&self.path)?;
        let fence = timeline.create_fence(1, c"dmashare-guard")?;
        Ok(Guard { fence, ender: Ender::SwSync(timeline) })
    }
}
