//! What a bracket costs in instructions: counted by the kernel, which stops a child after each of its own.
//! Alone in its process, which forks.

mod common;

use std::hint::black_box;

use common::{connected, import};
use dmashare::{Access, MappedBuffer, Protection};

/// Of `begin` and `end` together, with the loop around them. Four loads are compared with four words, and what
/// they protect is handed out and taken back: 71 in a build that is optimised a little (x86-64).
const MOST: u64 = 100;

/// How many instructions a child needs for so many brackets, with what it needs for itself.
fn counted(mapped: &MappedBuffer, times: u32) -> u64 {
    // SAFETY: the child allocates nothing and takes no lock: it makes brackets, and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: asks to be traced by the parent.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME) };
        // SAFETY: stops this process.
        unsafe { libc::raise(libc::SIGSTOP) };
        let mut all_well = true;
        for _ in 0..times {
            all_well &= match mapped.begin(Access::Read) {
                Ok(bracket) => {
                    black_box(mapped.as_ptr());
                    bracket.end().is_ok()
                }
                Err(_) => false,
            };
        }
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if all_well { 0 } else { 1 }) };
    }
    let mut count = 0;
    loop {
        let mut status = 0;
        // SAFETY: waits for the child; the place is valid.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "a bracket failed");
            return count;
        }
        assert!(libc::WIFSTOPPED(status), "the child has ended by {status:#x}");
        count += 1;
        // SAFETY: the child is stopped, and ours to trace.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0) };
        assert_eq!(stepped, 0, "{}", std::io::Error::last_os_error());
    }
}

#[test]
fn a_bracket_is_some_instructions() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 18, "dmashare-counted");
    let mapped = buffer.map(0, Protection::Read).unwrap();
    let (some, more) = (counted(&mapped, 100), counted(&mapped, 300));
    let each = (more - some) / 200;
    println!("a bracket: {each} instructions");
    assert!((8..=MOST).contains(&each), "a bracket has {each} instructions");
}
