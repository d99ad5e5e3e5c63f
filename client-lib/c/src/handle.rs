//! Handles: numbers that are given out once, and the tables of what they stand for.
//!
//! | bits | are |
//! | --- | --- |
//! | 60 to 63 | the type's tag, never 0: as an address it is none |
//! | 48 to 59 | the process epoch: a forked child sees that a handle is its parent's |
//! | 24 to 47 | how often the slot was used before |
//! | 0 to 23 | the slot |

use std::collections::VecDeque;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dmashare_uapi::process;

use crate::failure::Failure;

const _: () = assert!(usize::BITS == 64, "a handle needs 64 bits");

const SLOT_BITS: u32 = 24;
const USE_BITS: u32 = 24;
const EPOCH: u64 = 0xfff << (SLOT_BITS + USE_BITS);
const SLOTS: u32 = 1 << SLOT_BITS;
/// The first chunk has this many slots, each further one twice as many as the one before.
const FIRST: u32 = 64;
const CHUNKS: usize = 19;

/// How many handles there are, of all types.
pub(crate) static LIVE: AtomicUsize = AtomicUsize::new(0);

/// A type that has handles.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    /// 1 to 15, each for one type.
    const TAG: u64;
    /// As the header calls it, without its prefix.
    const NAME: &'static str;

    fn table() -> &'static Table<Self>;
}

macro_rules! kinds {
    ($($tag:literal $type:ty, $name:literal;)*) => { $(
        impl $crate::handle::Kind for $type {
            const TAG: u64 = $tag;
            const NAME: &'static str = $name;

            fn table() -> &'static $crate::handle::Table<Self> {
                static TABLE: $crate::handle::Table<$type> = $crate::handle::Table::new();
                &TABLE
            }
        }
    )* };
}
pub(crate) use kinds;

/// A handle as C has it: a pointer to nothing.
#[repr(transparent)]
pub struct Handle<T>(*mut c_void, PhantomData<fn() -> T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}

// SAFETY: it is a number; nothing is at that address.
unsafe impl<T> Send for Handle<T> {}

struct Slot<T> {
    /// The handle that is live, or 0.
    live: AtomicU64,
    /// What it stands for, while it is: for those who take no reference.
    fast: AtomicPtr<T>,
    uses: AtomicU32,
    object: Mutex<Option<Arc<T>>>,
}

/// Slots that are free, oldest first, of one process: a thread that a child has not may have held the
/// lock at the fork, so the child begins a list of its own.
struct Free {
    epoch: u32,
    slots: Mutex<VecDeque<u32>>,
    /// The parent's, so that leak checkers find it.
    _before: AtomicPtr<Self>,
}

/// The objects of one type. Slots are never freed, so a handle of any age can be looked up.
pub(crate) struct Table<T> {
    chunks: [AtomicPtr<Slot<T>>; CHUNKS],
    next: AtomicU32,
    free: AtomicPtr<Free>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            next: AtomicU32::new(0),
            free: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// In which chunk a slot is, and where in there.
    fn place(index: u32) -> (usize, usize) {
        let chunk = (index / FIRST + 1).ilog2();
        let before = FIRST * ((1 << chunk) - 1);
        (chunk as usize, (index - before) as usize)
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let (chunk, at) = Self::place(index);
        let chunk = self.chunks.get(chunk)?.load(Ordering::Acquire);
        // SAFETY: null, or a chunk that `grow` has published, of more than `at` slots, never freed.
        unsafe { chunk.wrapping_add(if chunk.is_null() { 0 } else { at }).as_ref() }
    }

    #[cold]
    fn grow(&self, index: u32) -> Option<&Slot<T>> {
        let (chunk, _) = Self::place(index);
        let slots: Box<[Slot<T>]> = (0..(FIRST as usize) << chunk)
            .map(|_| Slot {
                live: AtomicU64::new(0),
                fast: AtomicPtr::new(ptr::null_mut()),
                uses: AtomicU32::new(0),
                object: Mutex::new(None),
            })
            .collect();
        let len = slots.len();
        let new = Box::into_raw(slots).cast::<Slot<T>>();
        let null = ptr::null_mut();
        let place = self.chunks.get(chunk)?;
        if place.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: it came from `into_raw` above, with this length, and nobody else has seen it.
            drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(new, len)) });
        }
        self.slot(index)
    }

    fn free(&self) -> &Free {
        loop {
            let current = self.free.load(Ordering::Acquire);
            // SAFETY: null, or a list that was published here, never freed.
            if let Some(free) = unsafe { current.as_ref() }
                && free.epoch == process::epoch()
            {
                return free;
            }
            let new = Box::new(Free {
                epoch: process::epoch(),
                slots: Mutex::default(),
                _before: AtomicPtr::new(current),
            });
            let new = Box::into_raw(new);
            let old = self.free.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
            if old.is_err() {
                // SAFETY: it came from `into_raw` above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }

    fn take_slot(&self) -> Option<(u32, &Slot<T>)> {
        let free = self.free();
        let reused = free.slots.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let index = reused.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
        if index >= SLOTS {
            self.next.store(SLOTS, Ordering::Relaxed);
            return None;
        }
        let slot = self.slot(index).or_else(|| self.grow(index))?;
        Some((index, slot))
    }
}

impl<T> Handle<T> {
    /// NULL: no handle.
    pub(crate) const fn null() -> Self {
        Self(ptr::null_mut(), PhantomData)
    }
}

impl<T: Kind> Handle<T> {
    /// Gives out a handle.
    pub(crate) fn new(object: T) -> Result<Self, Failure> {
        Self::of(Arc::new(object))
    }

    pub(crate) fn of(object: Arc<T>) -> Result<Self, Failure> {
        let (index, slot) = T::table()
            .take_slot()
            .ok_or_else(|| Failure::new(libc::ENOMEM, "this process has too many handles"))?;
        let uses = u64::from(slot.uses.load(Ordering::Relaxed));
        let epoch = u64::from(process::epoch()) << (SLOT_BITS + USE_BITS) & EPOCH;
        let value = T::TAG << 60 | epoch | uses << SLOT_BITS | u64::from(index);
        slot.fast.store(Arc::as_ptr(&object).cast_mut(), Ordering::Relaxed);
        *slot.object.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
        slot.live.store(value, Ordering::Release);
        LIVE.fetch_add(1, Ordering::Relaxed);
        Ok(Self(ptr::without_provenance_mut(value as usize), PhantomData))
    }

    fn value(self) -> u64 {
        self.0.addr() as u64
    }

    /// The slot, if the handle is live, and whether it is this process's.
    fn look_up(self) -> Option<(&'static Slot<T>, bool)> {
        let value = self.value();
        if value >> 60 != T::TAG {
            return None;
        }
        let slot = T::table().slot(value as u32 & (SLOTS - 1))?;
        let own = value & EPOCH == u64::from(process::epoch()) << (SLOT_BITS + USE_BITS) & EPOCH;
        (slot.live.load(Ordering::Acquire) == value).then_some((slot, own))
    }

    /// What it stands for, which then lives as long as the call needs it.
    pub(crate) fn get(self) -> Result<Arc<T>, Failure> {
        let (slot, own) = self.look_up().ok_or_else(|| self.none())?;
        if !own {
            return Err(forked());
        }
        let object = slot.object.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been destroyed since, and the slot used again.
        match &*object {
            Some(object) if slot.live.load(Ordering::Acquire) == self.value() => {
                Ok(Arc::clone(object))
            }
            _ => Err(self.none()),
        }
    }

    /// The same with a few loads, for the calls that the header names: nobody may destroy the handle
    /// meanwhile.
    pub(crate) fn with<R>(self, with: impl FnOnce(&T) -> Result<R, Failure>) -> Result<R, Failure> {
        let (slot, own) = self.look_up().ok_or_else(|| self.none())?;
        if !own {
            return Err(forked());
        }
        // SAFETY: the handle is live, so the slot holds an Arc of what this points to; and it goes on
        // to, for the caller of the C function does not destroy the handle in the middle of it.
        with(unsafe { &*slot.fast.load(Ordering::Relaxed) })
    }

    /// Takes the handle back: of several who try, one succeeds. Also in a forked child, where it tells
    /// nobody: true for the handle of its own process.
    pub(crate) fn remove(self) -> Result<(Arc<T>, bool), Failure> {
        let (slot, own) = self.look_up().ok_or_else(|| self.none())?;
        let value = self.value();
        let (acquire, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        if slot.live.compare_exchange(value, 0, acquire, relaxed).is_err() {
            return Err(self.none());
        }
        LIVE.fetch_sub(1, Ordering::Relaxed);
        let object = if own {
            slot.object.lock().unwrap_or_else(PoisonError::into_inner).take()
        } else {
            // Somebody may have held the lock at the fork; then the memory is not freed.
            slot.object.try_lock().ok().and_then(|mut object| object.take())
        };
        let uses = slot.uses.fetch_add(1, Ordering::Relaxed) + 1;
        if own && uses >> USE_BITS == 0 {
            let mut free = T::table().free().slots.lock().unwrap_or_else(PoisonError::into_inner);
            free.push_back(value as u32 & (SLOTS - 1));
        }
        object.map(|object| (object, own)).ok_or_else(|| self.none())
    }

    /// The object itself, for what consumes it. EBUSY, and it is dropped, while another call has it.
    pub(crate) fn into_inner(self) -> Result<T, Failure> {
        // Asked first, so that in a child nothing is dropped.
        drop(self.get()?);
        let (object, _) = self.remove()?;
        Arc::try_unwrap(object).map_err(|_| {
            Failure::new(
                libc::EBUSY,
                format!("another call uses the {}; it is given back after that", T::NAME),
            )
        })
    }

    #[cold]
    fn none(self) -> Failure {
        let text = if self.0.is_null() {
            format!("NULL is no {}", T::NAME)
        } else {
            format!("this is no {}, or one that was destroyed", T::NAME)
        };
        Failure::new(libc::EINVAL, text)
    }
}

#[cold]
fn forked() -> Failure {
    Failure::new(libc::ECHILD, "the handle is the parent's: it was made before a fork")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(#[allow(dead_code, reason = "only its drop counts")] Arc<()>);
    kinds! { 15 Thing, "thing"; }

    fn errno(result: Result<impl Sized, Failure>) -> i32 {
        result.err().map_or(0, |failure| failure.errno)
    }

    #[test]
    fn a_handle_is_given_out_once() {
        let alive = Arc::new(());
        let mut seen = std::collections::HashSet::new();
        for round in 0..1000 {
            let many: Vec<_> =
                (0..3).map(|_| Handle::new(Thing(Arc::clone(&alive))).ok().unwrap()).collect();
            for handle in many {
                assert!(seen.insert(handle.value()), "round {round}");
                assert!(handle.get().is_ok());
                assert_eq!(errno(handle.remove()), 0);
                assert_eq!(errno(handle.get()), libc::EINVAL);
                assert_eq!(errno(handle.remove()), libc::EINVAL);
            }
        }
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn what_is_no_handle_is_refused() {
        let handle = Handle::new(Thing(Arc::default())).ok().unwrap();
        for value in [0, 1, 0xdead_beef, u64::MAX, handle.value() ^ 1 << 60, handle.value() + 1] {
            let other: Handle<Thing> =
                Handle(ptr::without_provenance_mut(value as usize), PhantomData);
            assert_eq!(errno(other.get()), libc::EINVAL, "{value:#x}");
            assert_eq!(errno(other.with(|_| Ok(()))), libc::EINVAL, "{value:#x}");
            assert_eq!(errno(other.remove()), libc::EINVAL, "{value:#x}");
        }
        assert_eq!(errno(handle.with(|_| Ok(()))), 0);
        assert_eq!(errno(handle.into_inner()), 0);
    }

    #[test]
    fn of_threads_that_destroy_one_handle_one_does() {
        for _ in 0..200 {
            let handle = Handle::new(Thing(Arc::default())).ok().unwrap();
            let destroyed: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(move || {
                            drop(handle.get());
                            usize::from(handle.remove().is_ok())
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(destroyed, 1);
        }
    }
}
