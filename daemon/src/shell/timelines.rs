//! The kernel's side of timelines on the main thread: the keeper, and what is put to points before
//! anybody is told of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dmashare_proto::message::{Access, GuardKind};
use dmashare_proto::{DeviceId, ErrorCode, ObjectId, WireError};

use super::{Os, Shell};
use crate::core::CheckedTimeline;
use crate::id_map::IdMap;
use crate::kernel::Machine;
use crate::reactor::Command;
use crate::timeline::{Keeper, Line, NewLine, hangup};

/// The keeper, and the timelines on it.
#[derive(Debug, Default)]
pub(super) struct Timelines {
    keeper: Option<Keeper>,
    lines: IdMap<ObjectId, Held>,
}

#[derive(Debug)]
struct Held {
    line: Arc<Line>,
    syncobj: Arc<OwnedFd>,
    /// Points are signalled by the reactor, when their sources end.
    in_turn: bool,
}

impl Timelines {
    pub fn add(&mut self, timeline: ObjectId, new: &NewLine) {
        let (line, syncobj) = (Arc::clone(&new.line), Arc::clone(&new.syncobj));
        self.lines.insert(timeline, Held { line, syncobj, in_turn: new.in_turn });
    }

    /// Whether nothing is put to its points before they end.
    pub fn is_in_turn(&self, timeline: ObjectId) -> bool {
        self.lines.get(&timeline).is_some_and(|held| held.in_turn)
    }

    /// Whether nothing was put to a point yet, nor to one above; not known of a simulated one.
    pub fn lacks(&self, timeline: ObjectId, point: u64) -> bool {
        let submitted = self.lines.get(&timeline).map(|held| held.line.submitted());
        matches!(submitted, Some(Ok(Some(submitted))) if submitted < point)
    }

    pub fn forget(&mut self, timeline: ObjectId) {
        self.lines.remove(&timeline);
    }
}

impl Shell {
    /// The kernel's objects of a new timeline.
    pub(super) fn new_timeline(
        &mut self,
        guard: GuardKind,
    ) -> Result<CheckedTimeline<Os>, WireError> {
        let failed = |error: std::io::Error| {
            WireError::new(ErrorCode::INTERNAL, format!("a timeline could not be made: {error}"))
                .errno(&error)
        };
        let (reader, writer) = hangup().map_err(failed)?;
        let mut made = self.keeper()?.create();
        if made.as_ref().is_err_and(is_gone) {
            // The keeper's removal has not been read yet.
            self.change_keeper();
            made = self.keeper()?.create();
        }
        let (line, fd) = made.map_err(failed)?;
        let syncobj = Arc::new(fd);
        Ok(CheckedTimeline {
            syncobj: Arc::clone(&syncobj),
            hangup: Arc::new(reader),
            line: NewLine {
                line: Arc::new(line),
                hangup: writer,
                syncobj,
                in_turn: guard == GuardKind::None,
            },
        })
    }

    /// A handle on a timeline of a former life's; `None` while no device can have one.
    pub(super) fn adopt_line(&mut self, syncobj: &OwnedFd) -> Option<Line> {
        match self.keeper().ok()?.adopt(syncobj.as_fd()) {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::error!(%error, "a timeline cannot be kept");
                None
            }
        }
    }

    fn keeper(&mut self) -> Result<&Keeper, WireError> {
        if self.timelines.keeper.is_none() {
            self.timelines.keeper = self.find_keeper();
        }
        self.timelines.keeper.as_ref().ok_or_else(|| {
            WireError::new(
                ErrorCode::UNSUPPORTED,
                "no device that is present has timeline syncobjs; `dmasharectl doctor` tells more",
            )
        })
    }

    /// Opens a device that has timelines: one that stays before one that can be pulled.
    fn find_keeper(&self) -> Option<Keeper> {
        for (device, nodes) in self.broker.keepers() {
            match self.machine {
                Machine::Real => {}
                #[cfg(feature = "simulate")]
                Machine::Simulated(_) => return Some(Keeper::simulated(device)),
            }
            // Not a primary node: who opens it first is its master.
            for node in nodes.iter().filter(|node| node.contains("renderD")) {
                match Keeper::open(device, Path::new(node)) {
                    Ok(keeper) => {
                        tracing::info!(device = device.0, node, "timelines are kept here");
                        return Some(keeper);
                    }
                    Err(error) => {
                        tracing::debug!(device = device.0, node, %error, "no timelines here");
                    }
                }
            }
        }
        None
    }

    /// A device is lost: what was kept through it is kept through another one.
    pub(super) fn keeper_lost(&mut self, device: DeviceId) {
        if self.timelines.keeper.as_ref().is_some_and(|keeper| keeper.device == device) {
            self.change_keeper();
        }
    }

    /// A device has come: timelines may wait for one.
    pub(super) fn find_keeper_for_orphans(&mut self) {
        if self.timelines.keeper.is_none() && !self.timelines.lines.is_empty() {
            self.change_keeper();
        }
    }

    fn change_keeper(&mut self) {
        self.timelines.keeper = self.find_keeper();
        let Some(keeper) = &self.timelines.keeper else {
            tracing::warn!(name: "no-timelines",
                timelines = self.timelines.lines.len(),
                "no device with timelines is left; none is made, and promises end by message"
            );
            return;
        };
        for (&timeline, held) in &mut self.timelines.lines {
            match keeper.adopt(held.syncobj.as_fd()) {
                Ok(line) => {
                    held.line = Arc::new(line);
                    self.reactor.send(Command::Adopt(timeline, Arc::clone(&held.line)));
                }
                Err(error) => tracing::error!(%timeline, %error, "a timeline cannot be kept"),
            }
        }
    }

    /// Puts a fence to a point; `false` where the point is to be signalled in turn instead.
    pub(super) fn put_to_point(
        &mut self,
        timeline: ObjectId,
        point: u64,
        fence: Option<&OwnedFd>,
    ) -> bool {
        let Some(fence) = fence else {
            self.in_turn_from_here(timeline);
            return false;
        };
        self.on_line(timeline, point, |line| line.put(point, fence.as_fd()))
    }

    pub(super) fn signal_point(&mut self, timeline: ObjectId, point: u64) {
        if !self.on_line(timeline, point, |line| line.signal(point)) {
            self.reactor.send(Command::SignalPoint(timeline, point));
        }
    }

    /// Points are added in order, so once one could not be, all others follow in turn.
    fn on_line(
        &mut self,
        timeline: ObjectId,
        point: u64,
        act: impl Fn(&Line) -> std::io::Result<()>,
    ) -> bool {
        let Some(held) = self.timelines.lines.get(&timeline).filter(|held| !held.in_turn) else {
            return false;
        };
        let mut result = act(&held.line);
        if result.as_ref().is_err_and(is_gone) {
            self.change_keeper();
            if let Some(held) = self.timelines.lines.get(&timeline) {
                result = act(&held.line);
            }
        }
        match result {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%timeline, point, %error, "points are signalled in turn from here");
                self.in_turn_from_here(timeline);
                false
            }
        }
    }

    fn in_turn_from_here(&mut self, timeline: ObjectId) {
        if let Some(held) = self.timelines.lines.get_mut(&timeline) {
            held.in_turn = true;
        }
    }

    pub(super) fn watch_point(&mut self, timeline: ObjectId, point: u64) {
        let Some(held) = self.timelines.lines.get(&timeline) else { return };
        match held.line.eventfd(point) {
            Ok(Some(eventfd)) => self.reactor.send(Command::WatchPoint(timeline, eventfd)),
            Ok(None) => {}
            Err(error) => {
                let error = WireError::new(
                    ErrorCode::UNSUPPORTED,
                    format!(
                        "the kernel does not tell of this point ({error}; Linux 6.6 does); ask for \
                         its state, or wait on the syncobj"
                    ),
                )
                .errno(&error);
                self.event(|broker, out| broker.watch_failed(timeline, point, &error, out));
            }
        }
    }

    /// Puts a fence into the reservation objects of dma-bufs.
    pub(super) fn attach(
        &self,
        fence: &OwnedFd,
        buffers: &[Arc<OwnedFd>],
        access: Access,
    ) -> Result<(), WireError> {
        for buffer in buffers {
            self.machine.attach(buffer.as_fd(), fence.as_fd(), access)?;
        }
        Ok(())
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
