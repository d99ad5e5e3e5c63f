//! What a bracket costs, by the kernel's own count: no system call, and not a byte written outside of the
//! caller's stack. Alone in its process, whose memory must not change while it is read off.

mod common;

use std::fs;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{connected, import};
use dmashare::{Access, MappedBuffer, Protection};

/// What the child does besides: to see that it would be noticed.
#[derive(Clone, Copy, PartialEq)]
enum Besides {
    Nothing,
    ACall,
    AWrite,
}

/// The stack of this thread.
fn stack() -> Range<usize> {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: asks for nothing but the caller's own name.
    let own = unsafe { libc::pthread_self() };
    // SAFETY: fills the attributes, of the thread that calls.
    let error = unsafe { libc::pthread_getattr_np(own, attributes.as_mut_ptr()) };
    assert_eq!(error, 0);
    let (mut start, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: just filled; both places are valid.
    unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut len) };
    // SAFETY: filled above, and not used afterwards.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    start.addr()..start.addr() + len
}

/// All that this process can write, but for `stack`.
fn writable(stack: &Range<usize>) -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut all = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
        if rest.as_bytes()[1] == b'w' {
            all.push(start..end.min(stack.start.max(start)));
            all.push(start.max(stack.end.min(end))..end);
        }
    }
    all.retain(|range| !range.is_empty());
    all
}

/// How a child ends that makes a thousand brackets where every page but its stack is for reading only,
/// and where the kernel ends whoever makes a system call but read, write and exit.
fn child(mapped: &MappedBuffer, besides: Besides) -> libc::c_int {
    let word = Box::new(AtomicU32::new(0));
    let stack = stack();
    // Allocated first: it is made read-only too.
    let mut ranges = Vec::with_capacity(1000);
    ranges.extend(writable(&stack));
    // SAFETY: the child allocates nothing and takes no lock: it makes brackets, and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let mut all_well = true;
        for Range { start, end } in &ranges {
            let start = std::ptr::without_provenance_mut::<libc::c_void>(*start);
            let len = end - start.addr();
            // SAFETY: a part of this process's own memory, which nobody writes from here on.
            all_well &= unsafe { libc::mprotect(start, len, libc::PROT_READ) } == 0;
        }
        // SAFETY: from here this process makes no system call but exit.
        all_well &= unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) } == 0;
        for _ in 0..1000 {
            all_well &= match mapped.begin(Access::ReadWrite) {
                Ok(bracket) => {
                    black_box(mapped.as_ptr());
                    bracket.end().is_ok()
                }
                Err(_) => false,
            };
        }
        match besides {
            Besides::Nothing => {}
            // SAFETY: a call without arguments, which strict mode does not allow.
            Besides::ACall => _ = unsafe { libc::syscall(libc::SYS_getpid) },
            Besides::AWrite => black_box(&word).store(1, Ordering::Relaxed),
        }
        // SAFETY: does not return. Not exit_group, which strict mode does not allow.
        unsafe { libc::syscall(libc::SYS_exit, libc::c_int::from(!all_well)) };
    }
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

#[test]
fn a_bracket_makes_no_system_call_and_writes_nothing() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 18, "dmashare-silent");
    assert!(!buffer.needs_cpu_sync());
    let mapped = buffer.map(0, Protection::ReadWrite).unwrap();
    let silent = child(&mapped, Besides::Nothing);
    assert_eq!(silent, 0, "a bracket made a system call (9), wrote (11), or failed");
    assert_eq!(libc::WTERMSIG(child(&mapped, Besides::ACall)), libc::SIGKILL);
    assert_eq!(libc::WTERMSIG(child(&mapped, Besides::AWrite)), libc::SIGSEGV);
}
