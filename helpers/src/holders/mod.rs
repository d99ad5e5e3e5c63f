//! Looks who holds a device.
//!
//! 1. `target`: the numbers of all nodes that are looked for, from sysfs, /proc and the request;
//! 2. `scan`: every process is looked through, by several workers, and what may be the device's is noted
//!    (`eyes`);
//! 3. `judge`: whose it is (`whose`), what is pending in it (`fences`), who is master (`masters`),
//!    and so whether it is in an eject's way;
//! 4. `identity`: who the process is; `beside`: what no process holds.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use dmashare_proto::holders::{Held, Holder, Holders, Look, Looked, What};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use beside::Clients;
use fdinfo::BufferInfo;
use fences::Asker;
use identity::Names;
use judge::{Judge, MASTER};
use masters::Masters;
use scan::{Outcome, Scanner};
use seen::Seen;
use target::Target;

pub use kept::keeps;

mod beside;
mod cgroup;
mod debugfs;
mod eyes;
mod fdinfo;
mod fences;
mod identity;
mod judge;
mod kept;
mod maps;
mod masters;
mod nvidia;
mod scan;
mod seen;
mod slot;
mod target;
mod whose;

/// What waits in the kernel for the same locks gains nothing by more.
const WORKERS: usize = 4;

/// Looks through all processes (but this one), and what the kernel shows besides.
///
/// # Errors
/// /proc cannot be read.
pub fn look(look: &Look) -> io::Result<Holders> {
    let begin = Instant::now();
    let target = Target::new(look)?;
    let clients = Clients::before(look);
    let mut scanned = scan_all(&target)?;
    scanned.learn_of_buffers();
    let mut others = clients.in_flight(look, &target, &scanned.seen, scanned.looked.unseen);
    let mut judge = Judge {
        look,
        target: &target,
        buffers: &scanned.buffers,
        masters: Masters::new(look, &target),
        asker: Asker::new(look),
    };
    let mut names = Names::new();
    let mut processes = Vec::new();
    for seen in &scanned.seen {
        let verdict = judge.judge(seen);
        if verdict.holds.is_empty() {
            continue;
        }
        // It has ended meanwhile: it holds nothing.
        let Ok(holder) = names.holder(seen, verdict.is_master) else { continue };
        processes.push(Holder { holds: verdict.holds, ..holder });
    }
    spare_seat_managers(&mut processes);
    processes.sort_by_key(|holder| (!holder.is_active(), holder.pid));
    others.extend(beside::of_processes(&processes, scanned.looked.unseen));
    others.extend(beside::of_kernel(&look.device, &processes));
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Holders { processes, others, looked: Looked { micros, ..scanned.looked } })
}

/// All processes with something that may be the device's.
struct Scanned {
    seen: Vec<Seen>,
    /// What is known of dma-bufs, by inode.
    buffers: HashMap<u64, BufferInfo>,
    looked: Looked,
}

fn scan_all(target: &Target) -> io::Result<Scanned> {
    let proc = scan::proc_folder()?;
    let own = std::process::id().cast_signed();
    let mut pids = scan::processes(proc.as_fd())?;
    pids.retain(|&pid| pid != own);
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
    let parts: Vec<Scanned> = thread::scope(|scope| {
        let (proc, pids, next) = (proc.as_fd(), &pids, &next);
        let work = |place: usize| {
            scope.spawn(move || {
                spread(place);
                scan_some(target, proc, pids, next)
            })
        };
        let started: Vec<_> = (0..workers).map(work).collect();
        started.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    if parts.len() < workers {
        return Err(io::Error::other("a scan of the processes has panicked"));
    }
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or_else(|| io::Error::other("nobody scanned"))?;
    let mut all = parts.fold(first, Scanned::and);
    all.seen.sort_by_key(|seen| seen.pid);
    Ok(all)
}

/// Puts a worker on a processor of its own: a look is so short that on a busy machine it is over before
/// the scheduler has moved one of them away from the other. Where it may not be, it is slower.
fn spread(place: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let own = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).nth(place);
    if let Some(cpu) = own {
        let mut only = CpuSet::new();
        only.set(cpu);
        let _slower = sched_setaffinity(None, &only);
    }
}

/// A worker's share: whichever process comes next.
fn scan_some(target: &Target, proc: BorrowedFd<'_>, pids: &[i32], next: &AtomicUsize) -> Scanned {
    let mut scanner = Scanner::new(target, proc);
    let (mut seen, mut looked) = (Vec::new(), Looked::default());
    while let Some(&pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
        let Ok(name) = CString::new(pid.to_string()) else { continue };
        looked.processes += 1;
        match scanner.process(proc, pid, &name) {
            Outcome::Seen(of) => seen.push(of),
            Outcome::Nothing => {}
            Outcome::Unseen => looked.unseen += 1,
        }
    }
    let (fds, buffers) = scanner.into_findings();
    looked.fds = fds;
    Scanned { seen, buffers, looked }
}

impl Scanned {
    fn and(mut self, other: Self) -> Self {
        self.seen.extend(other.seen);
        self.buffers.extend(other.buffers);
        self.looked.processes += other.looked.processes;
        self.looked.fds += other.looked.fds;
        self.looked.unseen += other.looked.unseen;
        self
    }

    /// A dma-buf of which only mappings are left has no fdinfo anywhere.
    fn learn_of_buffers(&mut self) {
        let unknown = |inode: &u64| !self.buffers.contains_key(inode);
        if self.seen.iter().flat_map(|seen| seen.buffers.keys()).any(unknown) {
            for (inode, info) in debugfs::buffers().into_iter().flatten() {
                self.buffers.entry(inode).or_insert(info);
            }
        }
    }
}

/// logind and seatd have the same open file of a card as the compositor that they gave it to, and close it
/// when that lets go. So it is the compositor that is in the way, where there is one.
fn spare_seat_managers(holders: &mut [Holder]) {
    let masters: Vec<String> = holders
        .iter()
        .filter(|holder| !identity::is_seat_manager(holder))
        .flat_map(|holder| &holder.holds)
        .filter_map(master_of)
        .map(str::to_owned)
        .collect();
    for holder in holders.iter_mut().filter(|holder| identity::is_seat_manager(holder)) {
        for held in &mut holder.holds {
            let is_others = master_of(held).is_some_and(|path| masters.iter().any(|of| of == path));
            if is_others && held.active == MASTER {
                held.active.clear();
            }
        }
    }
}

/// The card that a descriptor is the master of.
fn master_of(held: &Held) -> Option<&str> {
    match &held.what {
        What::Node { path, drm } if drm.iter().any(|client| client.master) => Some(path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmashare_proto::holders::DrmClient;

    fn master(command: &str, uid: u32) -> Holder {
        let drm = vec![DrmClient { master: true, ..DrmClient::default() }];
        let what = What::Node { path: "/dev/dri/card1".into(), drm };
        let holds = vec![Held { what, fds: 1, active: MASTER.into(), ..Held::default() }];
        Holder { command: command.into(), uid, holds, ..Holder::default() }
    }

    #[test]
    fn a_compositor_is_in_the_way_and_not_who_gave_it_the_card() {
        let mut holders = [master("seatd", 0), master("sway", 1000)];
        spare_seat_managers(&mut holders);
        assert_eq!(holders.each_ref().map(Holder::is_active), [false, true]);
        // Nobody else has it.
        let mut holders = [master("systemd-logind", 0)];
        spare_seat_managers(&mut holders);
        assert!(holders[0].is_active());
        // Anybody can call themselves so.
        let mut holders = [master("seatd", 1000), master("sway", 1000)];
        spare_seat_managers(&mut holders);
        assert!(holders[0].is_active());
    }
}
