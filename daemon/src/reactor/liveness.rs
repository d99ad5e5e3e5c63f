//! Whether a device of which nothing is heard is still there. Some vanish without any event, and
//! then their fences never end. A look is a read of the PCI configuration space, which may wait for
//! the device to wake up; so it is done on a thread of its own, and the answer comes back to the
//! reactor.
//!
//! A device is looked at when one of its guards has passed its deadline, and when the same fence was
//! its oldest pending one at two turns in a row. A stream of short fences costs no look, and with
//! nothing pending there is no turn either.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use dmashare_proto::{DeviceId, ObjectId};
use nix::sys::eventfd::EventFd;

use crate::clock::monotonic_ns;
use crate::devices::DeviceDesc;
use crate::kernel::Machine;

/// Which devices are to be looked at, and when.
#[derive(Debug, Default)]
struct Turns {
    /// 0: there are none.
    every_ns: u64,
    of: HashMap<DeviceId, Turn>,
    /// Looks whose answer has not come.
    under_way: HashSet<DeviceId>,
}

#[derive(Debug)]
struct Turn {
    /// At the last turn, or when there was first something.
    oldest: ObjectId,
    next_ns: u64,
}

impl Turns {
    /// `pending` are all devices that have something pending, with the oldest of it. Gives those that
    /// are to be looked at.
    fn take(
        &mut self,
        now_ns: u64,
        pending: impl Iterator<Item = (DeviceId, ObjectId)> + Clone,
    ) -> Vec<DeviceId> {
        if self.every_ns == 0 {
            return Vec::new();
        }
        self.of.retain(|device, _| pending.clone().any(|(other, _)| other == *device));
        let mut stuck = Vec::new();
        for (device, oldest) in pending {
            let next_ns = now_ns + self.every_ns;
            let turn = self.of.entry(device).or_insert(Turn { oldest, next_ns });
            if turn.next_ns <= now_ns {
                if turn.oldest == oldest {
                    stuck.push(device);
                }
                *turn = Turn { oldest, next_ns };
            }
        }
        stuck
    }

    fn next_ns(&self) -> Option<u64> {
        self.of.values().map(|turn| turn.next_ns).min()
    }

    /// `true` if a look may begin: none is under way.
    fn begin(&mut self, device: DeviceId) -> bool {
        self.under_way.insert(device)
    }

    fn end(&mut self, device: DeviceId) {
        self.under_way.remove(&device);
    }
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Looked {
    pub device: DeviceId,
    /// It does not answer on its bus. `false` also where that cannot be known.
    pub vanished: bool,
    pub at_ns: u64,
}

/// The reactor's end of the thread that looks.
pub(super) struct Liveness {
    turns: Turns,
    to: mpsc::Sender<(DeviceId, DeviceDesc)>,
    from: mpsc::Receiver<Looked>,
}

impl Liveness {
    /// Starts the thread, which writes to `wake` when it has an answer. It ends with this, after the
    /// look that it is at: nobody waits for it.
    pub fn start(machine: Machine, every: Duration, wake: Arc<EventFd>) -> io::Result<Self> {
        let (to, questions) = mpsc::channel::<(DeviceId, DeviceDesc)>();
        let (answers, from) = mpsc::channel();
        std::thread::Builder::new().name("liveness".to_owned()).spawn(move || {
            for (device, desc) in questions {
                let vanished = machine.has_vanished(&desc).unwrap_or_else(|error| {
                    tracing::debug!(device = device.0, %error, "a device cannot be looked at");
                    None
                });
                let at_ns = monotonic_ns();
                let looked = Looked { device, vanished: vanished.unwrap_or(false), at_ns };
                if answers.send(looked).is_err() {
                    return;
                }
                if let Err(error) = wake.write(1) {
                    // EAGAIN cannot be: that takes 2^64 - 2 unread wake-ups.
                    tracing::error!(%error, "waking the fence reactor failed");
                }
            }
        })?;
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { turns: Turns { every_ns, ..Turns::default() }, to, from })
    }

    /// Devices whose turn it is to be looked at.
    pub fn due(
        &mut self,
        now_ns: u64,
        pending: impl Iterator<Item = (DeviceId, ObjectId)> + Clone,
    ) -> Vec<DeviceId> {
        self.turns.take(now_ns, pending)
    }

    /// When the next turn is.
    pub fn next_ns(&self) -> Option<u64> {
        self.turns.next_ns()
    }

    /// Has a device looked at, unless it is being looked at.
    pub fn look(&mut self, device: DeviceId, desc: &DeviceDesc) {
        if self.turns.begin(device) && self.to.send((device, desc.clone())).is_err() {
            tracing::error!("the thread that looks at devices is gone");
        }
    }

    /// An answer that has come.
    pub fn answer(&mut self) -> Option<Looked> {
        let looked = self.from.try_recv().ok()?;
        self.turns.end(looked.device);
        Some(looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId(1);
    const B: DeviceId = DeviceId(2);

    fn turns(every_ns: u64) -> Turns {
        Turns { every_ns, ..Turns::default() }
    }

    fn take(turns: &mut Turns, now_ns: u64, pending: &[(DeviceId, u64)]) -> Vec<DeviceId> {
        turns.take(now_ns, pending.iter().map(|&(device, fence)| (device, ObjectId(fence))))
    }

    #[test]
    fn nothing_pending_is_no_turn() {
        let mut turns = turns(1000);
        assert!(take(&mut turns, 0, &[]).is_empty());
        assert_eq!(turns.next_ns(), None);
        assert!(take(&mut turns, 5, &[(A, 10)]).is_empty());
        assert_eq!(turns.next_ns(), Some(1005));
        assert!(take(&mut turns, 6, &[]).is_empty());
        assert_eq!(turns.next_ns(), None);
    }

    #[test]
    fn the_same_fence_at_two_turns_is_a_look_each_time_from_then_on() {
        let mut turns = turns(1000);
        assert!(take(&mut turns, 0, &[(A, 10)]).is_empty());
        assert!(take(&mut turns, 999, &[(A, 10)]).is_empty(), "too early");
        assert_eq!(take(&mut turns, 1000, &[(A, 10)]), [A]);
        assert!(take(&mut turns, 1001, &[(A, 10)]).is_empty());
        assert_eq!(take(&mut turns, 2000, &[(A, 10)]), [A]);
        assert_eq!(turns.next_ns(), Some(3000));
    }

    #[test]
    fn a_stream_of_short_fences_is_no_look() {
        let mut turns = turns(1000);
        let mut looks = 0;
        // Always one pending, a new one every 10.
        for now_ns in (0..100_000).step_by(10) {
            looks += take(&mut turns, now_ns, &[(A, now_ns)]).len();
        }
        assert_eq!(looks, 0);
        // The last one stays: from then on it is stuck.
        assert!(take(&mut turns, 100_000, &[(A, 99_990)]).is_empty());
        assert_eq!(take(&mut turns, 101_000, &[(A, 99_990)]), [A]);
    }

    #[test]
    fn each_device_has_its_own_turns() {
        let mut turns = turns(1000);
        assert!(take(&mut turns, 0, &[(A, 1)]).is_empty());
        assert!(take(&mut turns, 600, &[(A, 1), (B, 2)]).is_empty());
        assert_eq!(take(&mut turns, 1000, &[(A, 1), (B, 2)]), [A]);
        assert_eq!(turns.next_ns(), Some(1600));
        assert_eq!(take(&mut turns, 1600, &[(A, 1), (B, 2)]), [B]);
    }

    #[test]
    fn off_is_off() {
        let mut turns = turns(0);
        assert!(take(&mut turns, 0, &[(A, 1)]).is_empty());
        assert!(take(&mut turns, 1 << 40, &[(A, 1)]).is_empty());
        assert_eq!(turns.next_ns(), None);
    }

    #[test]
    fn one_look_at_a_time() {
        let mut turns = turns(1000);
        assert!(turns.begin(A));
        assert!(!turns.begin(A));
        assert!(turns.begin(B));
        turns.end(A);
        assert!(turns.begin(A));
    }
}
