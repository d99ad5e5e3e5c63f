//! A fault on a mapping is answered by zeros; every other SIGBUS goes where it went before.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::memfd::page_size;
use dmashare_uapi::sigbus;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::{ftruncate, getpid};

const CHILD: &str = "DMASHARE_SIGBUS_CHILD";

fn memory(pages: usize, byte: u8) -> OwnedFd {
    let fd = memfd_create("dmashare-sigbus", MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = std::fs::File::from(fd);
    std::io::Write::write_all(&mut file, &vec![byte; pages * page_size()]).unwrap();
    file.into()
}

fn map(fd: &OwnedFd, pages: usize, faulted: &Arc<AtomicBool>) -> Mapping {
    let mapping = Mapping::map(fd.as_fd(), 0, pages * page_size(), Prot::ReadWrite).unwrap();
    mapping.guarded(faulted)
}

#[test]
fn a_fault_is_answered_by_zeros_and_nobody_else_is_touched() {
    sigbus::install().unwrap();
    sigbus::install().unwrap();
    let (gone, stays) = (memory(4, 0x11), memory(4, 0x22));
    let flags = [Arc::<AtomicBool>::default(), Arc::default()];
    let (lost, other) = (map(&gone, 4, &flags[0]), map(&stays, 4, &flags[1]));
    let mut bytes = vec![0xff; lost.len()];
    lost.copy_to(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x11));

    ftruncate(&gone, 0).unwrap();
    lost.copy_to(page_size(), &mut bytes[..8]).unwrap();
    assert!(flags[0].load(Ordering::SeqCst), "the fault is noted");
    lost.copy_to(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "the whole mapping was replaced");
    // Written afterwards is what stays here.
    lost.copy_from(5, &[7]).unwrap();
    lost.copy_to(5, &mut bytes[..1]).unwrap();
    assert_eq!(bytes[0], 7);
    other.copy_to(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x22) && !flags[1].load(Ordering::SeqCst));
    lost.revoke().unwrap();
    assert!(lost.is_revoked());
}

#[test]
fn a_write_that_faults_goes_on_too() {
    sigbus::install().unwrap();
    let (gone, faulted) = (memory(1, 1), Arc::default());
    let lost = map(&gone, 1, &faulted);
    ftruncate(&gone, 0).unwrap();
    lost.copy_from(0, &[9, 9]).unwrap();
    let mut bytes = [0; 3];
    lost.copy_to(0, &mut bytes).unwrap();
    assert_eq!((bytes, faulted.load(Ordering::SeqCst)), ([9, 9, 0], true));
}

/// Mappings come and go on some threads, and fault on all of them.
#[test]
fn faults_and_drops_at_once() {
    sigbus::install().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                for round in 0..300 {
                    let (gone, faulted) = (memory(2, thread + 1), Arc::<AtomicBool>::default());
                    let mapping = Arc::new(map(&gone, 2, &faulted));
                    let mut byte = [0];
                    mapping.copy_to(0, &mut byte).unwrap();
                    assert_eq!(byte[0], thread + 1, "round {round}: somebody else's page");
                    ftruncate(&gone, 0).unwrap();
                    // Two faults at one time, on one mapping.
                    std::thread::scope(|both| {
                        for _ in 0..2 {
                            both.spawn(|| mapping.copy_to(page_size(), &mut [0]).unwrap());
                        }
                    });
                    assert!(faulted.load(Ordering::SeqCst));
                }
            });
        }
    });
}

/// Runs this program again, for one test that has a process of its own.
fn child(what: &str) -> ExitStatus {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.args(["--exact", "in_a_child", "--nocapture"]).env(CHILD, what);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().unwrap()
}

extern "C" fn leave(_: libc::c_int) {
    // SAFETY: async-signal-safe, and it does not return.
    unsafe { libc::_exit(77) }
}

extern "C" fn leave_with_info(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's, passed on.
    let is_fault = unsafe { (*info).si_code } > 0;
    // SAFETY: async-signal-safe, and it does not return.
    unsafe { libc::_exit(if is_fault { 78 } else { 79 }) }
}

/// As many mappings as the table has places; the caller has one of them.
fn crowd() -> Vec<Mapping> {
    let sound = memory(1, 1);
    (1..sigbus::CAPACITY).map(|_| map(&sound, 1, &Arc::default())).collect()
}

/// A mapping that faults, while there are `others`.
fn fault(others: &[Mapping]) {
    let (gone, faulted) = (memory(1, 1), Arc::default());
    let mapping = map(&gone, 1, &faulted);
    ftruncate(&gone, 0).unwrap();
    mapping.copy_to(0, &mut [0]).unwrap();
    assert!(faulted.load(Ordering::SeqCst), "among {}", others.len());
}

/// What the children do; nothing without being asked.
#[test]
fn in_a_child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (action, how) = what.split_once(' ').unwrap();
    let handler = match action {
        "default" => SigHandler::SigDfl,
        "ignored" => SigHandler::SigIgn,
        "plain" => SigHandler::Handler(leave),
        _ => SigHandler::SigAction(leave_with_info),
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers end the process, which they may.
    unsafe { sigaction(Signal::SIGBUS, &action).unwrap() };
    sigbus::install().unwrap();
    // A core is not to be left behind.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
    if how == "sent" {
        kill(getpid(), Signal::SIGBUS).unwrap();
        return;
    }
    // A mapping that the guard does not know.
    let gone = memory(1, 1);
    let unknown = Mapping::map(gone.as_fd(), 0, page_size(), Prot::Read).unwrap();
    let known = map(&memory(1, 1), 1, &Arc::default());
    match how {
        "crowded" => return fault(&crowd()),
        "one less" => {
            let mut others = crowd();
            drop(others.pop());
            return fault(&others);
        }
        _ => {}
    }
    ftruncate(&gone, 0).unwrap();
    unknown.copy_to(0, &mut [0]).unwrap();
    drop(known);
}

#[test]
fn what_is_not_ours_goes_where_it_went_before() {
    let bus = Some(Signal::SIGBUS as i32);
    for fatal in ["default fault", "default sent", "ignored fault"] {
        let status = child(fatal);
        assert_eq!(status.signal(), bus, "{fatal}: {status}");
    }
    assert!(child("ignored sent").success(), "what is ignored is ignored");
    assert!(child("plain one less").success(), "a place that was given back is not taken");
    for (what, code) in [
        ("plain fault", 77),
        ("plain sent", 77),
        ("plain crowded", 77),
        ("info fault", 78),
        ("info sent", 79),
    ] {
        let status = child(what);
        assert_eq!(status.code(), Some(code), "{what}: {status}");
    }
}
