//! An answer to SIGBUS on mappings that can be taken back, for drivers that fault before anybody has
//! told of the removal.
//!
//! A table of the mappings' ranges is looked through by the signal's handler, which takes no lock and
//! allocates nothing: an address inside one has the whole mapping replaced by zero pages, in place, and
//! the access that faulted goes on. Every other SIGBUS goes to whom it went before.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{process, ptr, thread};

/// Mappings that can be guarded at one time; what is made beyond them has none for its life.
pub const CAPACITY: usize = 4096;

/// A range that the handler knows. All of it is atomics: the handler can run at any instant, on any
/// thread, also while another one changes it.
struct Slot {
    /// The first address; 0 for a free slot. Written last on the way in, and first on the way out.
    start: AtomicUsize,
    len: AtomicUsize,
    /// PROT_ bits of the zero pages.
    prot: AtomicI32,
    /// Set when the range was replaced. Valid while `start` is not 0, and while `busy` is not.
    faulted: AtomicPtr<AtomicBool>,
    /// Handlers that look at it right now.
    busy: AtomicUsize,
    /// Somebody has it, or is about to.
    taken: AtomicBool,
}

static TABLE: [Slot; CAPACITY] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        prot: AtomicI32::new(0),
        faulted: AtomicPtr::new(ptr::null_mut()),
        busy: AtomicUsize::new(0),
        taken: AtomicBool::new(false),
    }
}; CAPACITY];

/// Where SIGBUS went before; null while no guard is installed. Never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Installs the handler, for the whole process and for good. A second call does nothing. Mappings that
/// are made from here on are guarded.
///
/// Who installs a handler of its own later, without handing on to this one, takes it out of work.
pub fn install() -> io::Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if is_installed() {
        return Ok(());
    }
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the action, into memory that is large enough for it.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled it; and a sigaction of zeros is one too.
    let before = unsafe { before.assume_init() };
    let mut ours = before;
    ours.sa_sigaction = handler as *const () as usize;
    // The mask and the manners of who is handed on to; on its own stack, if the thread has one.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (before.sa_flags & libc::SA_RESTART);
    // There before the handler is, which reads it.
    PREVIOUS.store(Box::into_raw(Box::new(before)), Ordering::SeqCst);
    // SAFETY: the handler is async-signal-safe and has the signature that SA_SIGINFO asks for.
    if unsafe { libc::sigaction(libc::SIGBUS, &ours, ptr::null_mut()) } != 0 {
        let error = io::Error::last_os_error();
        PREVIOUS.store(ptr::null_mut(), Ordering::SeqCst);
        return Err(error);
    }
    Ok(())
}

/// Whether [`install`] has been called.
#[must_use]
pub fn is_installed() -> bool {
    !PREVIOUS.load(Ordering::Acquire).is_null()
}

/// A range's place in the table, given back by `Drop`, before the range is unmapped.
#[derive(Debug)]
pub(crate) struct Guarded {
    index: usize,
    /// The process that made it.
    maker: u32,
    /// What the slot points to.
    _faulted: Arc<AtomicBool>,
}

impl Guarded {
    /// `None` where the table is full, or no guard is installed: a fault then goes to whom it went before.
    pub(crate) fn new(
        start: usize,
        len: usize,
        prot: libc::c_int,
        faulted: &Arc<AtomicBool>,
    ) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        // Where the last one was found most are free.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let from = NEXT.load(Ordering::Relaxed);
        let take = |index: &usize| !TABLE[*index].taken.swap(true, Ordering::Acquire);
        let index = (0..CAPACITY).map(|at| (from + at) % CAPACITY).find(take)?;
        NEXT.store((index + 1) % CAPACITY, Ordering::Relaxed);
        let slot = &TABLE[index];
        slot.len.store(len, Ordering::Relaxed);
        slot.prot.store(prot, Ordering::Relaxed);
        slot.faulted.store(Arc::as_ptr(faulted).cast_mut(), Ordering::Relaxed);
        slot.start.store(start, Ordering::SeqCst);
        Some(Self { index, maker: process::id(), _faulted: Arc::clone(faulted) })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let slot = &TABLE[self.index];
        slot.start.store(0, Ordering::SeqCst);
        // A handler on another thread that has seen it is replacing the range at this moment: that has to
        // be over before somebody else can have the addresses. It waits for nobody.
        while slot.busy.load(Ordering::SeqCst) != 0 {
            // In a forked child that thread is not there, and never counts itself out again: the place is
            // given up, and nobody replaces the range any more.
            if process::id() != self.maker {
                return;
            }
            thread::yield_now();
        }
        slot.taken.store(false, Ordering::Release);
    }
}

/// Replaces the range that an address is in; false where it is in none.
fn answer(address: usize) -> bool {
    TABLE.iter().any(|slot| {
        // The free ones are passed over without a write.
        if slot.start.load(Ordering::Relaxed) == 0 {
            return false;
        }
        slot.busy.fetch_add(1, Ordering::SeqCst);
        let (start, len) = (slot.start.load(Ordering::SeqCst), slot.len.load(Ordering::Relaxed));
        let is_it =
            start != 0 && (start..start + len).contains(&address) && replace(slot, start, len);
        slot.busy.fetch_sub(1, Ordering::SeqCst);
        is_it
    })
}

fn replace(slot: &Slot, start: usize, len: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = slot.prot.load(Ordering::Relaxed);
    let faulted = slot.faulted.load(Ordering::Relaxed);
    // Before the pages change: whoever reads a zero finds it set.
    // SAFETY: it points into the `Arc` of the slot's owner, who waits for `busy` before it lets go.
    unsafe { (*faulted).store(true, Ordering::SeqCst) };
    // SAFETY: the range is a mapping of the slot's owner, who has not unmapped it: it waits for `busy`
    // before. MAP_FIXED replaces exactly that range, into which nobody has a reference.
    let mapped = unsafe { libc::mmap(ptr::without_provenance_mut(start), len, prot, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

/// The handler. Async-signal-safe: atomics, mmap, sigaction and raise.
extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: this thread's own, valid for its life.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: the kernel passes a valid one to a handler with SA_SIGINFO.
    let told = unsafe { &*info };
    // What a process sends has no address.
    let is_fault = told.si_code > 0;
    // SAFETY: of a fault the kernel has set the address.
    let address = if is_fault { unsafe { told.si_addr() }.addr() } else { 0 };
    if !(is_fault && answer(address)) {
        hand_on(signal, info, context, is_fault);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

fn hand_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    is_fault: bool,
) {
    // SAFETY: set before the handler was installed, and never freed or changed after that.
    let previous = unsafe { &*PREVIOUS.load(Ordering::SeqCst) };
    match previous.sa_sigaction {
        // The kernel lets nobody ignore a fault.
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            let mut default = *previous;
            default.sa_sigaction = libc::SIG_DFL;
            // SAFETY: the default action has no function to be called.
            unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
            // A fault comes again when the access is made again, with its own address in the core dump.
            if !is_fault {
                // SAFETY: async-signal-safe; it is delivered when this handler returns.
                unsafe { libc::raise(signal) };
            }
        }
        function if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type WithInfo = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: whoever installed it with SA_SIGINFO gave a function of this signature.
            let function: WithInfo = unsafe { std::mem::transmute(function) };
            function(signal, info, context);
        }
        function => {
            // SAFETY: whoever installed it without SA_SIGINFO gave a function of this signature.
            let function: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(function) };
            function(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_does_not_wait_for_its_parents_threads() {
        install().unwrap();
        let guarded = Guarded::new(4096, 1, libc::PROT_READ, &Arc::default()).unwrap();
        let slot = &TABLE[guarded.index];
        slot.busy.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the child gives the place up, and exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: asks for a signal that ends the child, should it wait.
            unsafe { libc::alarm(60) };
            drop(guarded);
            let is_given_up = slot.taken.load(Ordering::SeqCst);
            // SAFETY: does not return.
            unsafe { libc::_exit(libc::c_int::from(!is_given_up)) };
        }
        let mut status = 0;
        // SAFETY: our own child, waited for once.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "it waited, or somebody else can have the place");
        slot.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
