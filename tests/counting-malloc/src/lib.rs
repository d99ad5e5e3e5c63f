//! Stands in front of glibc's malloc in one program (LD_PRELOAD), and counts: allocations, and the bytes that
//! are allocated at the moment. The program is what it is when it is shipped; no allocator is built into
//! it for this.
//!
//! The counters are in a file of 16 bytes that `DMASHARE_COUNT_ALLOCATIONS` names: two u64 in the machine's
//! byte order, [`ALLOCATIONS`] and [`BYTES`]. Another process reads it at any time. Only a program called
//! `dmashared` is counted: what it starts inherits both variables.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Place of the number of calls that gave memory, since the program began.
pub const ALLOCATIONS: usize = 0;
/// Place of the bytes that can be used at the moment, as malloc has rounded them.
pub const BYTES: usize = 1;

type Counters = [AtomicU64; 2];

// glibc's own, under the names that it has for those who stand in front.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(memory: *mut c_void);
    static program_invocation_short_name: *const c_char;
}

/// Null until it is known; [`NOT_COUNTED`] in another program.
static COUNTERS: AtomicPtr<Counters> = AtomicPtr::new(ptr::null_mut());
const NOT_COUNTED: *mut Counters = ptr::without_provenance_mut(1);

fn counters() -> Option<&'static Counters> {
    let mut found = COUNTERS.load(Ordering::Acquire);
    if found.is_null() {
        found = find()?;
        COUNTERS.store(found, Ordering::Release);
    }
    if found == NOT_COUNTED {
        return None;
    }
    // SAFETY: it was mapped for good, aligned to a page, and is only used as atomics.
    Some(unsafe { &*found })
}

/// Nothing here allocates. `None` while the C library does not know the program's name.
fn find() -> Option<*mut Counters> {
    // SAFETY: glibc sets it once, before any thread but the first, and never frees it.
    let name = unsafe { program_invocation_short_name };
    if name.is_null() {
        return None;
    }
    // SAFETY: a string of glibc's, with its end.
    if unsafe { CStr::from_ptr(name) } != c"dmashared" {
        return Some(NOT_COUNTED);
    }
    // SAFETY: a name with its end; nobody changes the environment of the counted program.
    let path = unsafe { libc::getenv(c"DMASHARE_COUNT_ALLOCATIONS".as_ptr()) };
    if path.is_null() {
        return Some(NOT_COUNTED);
    }
    // SAFETY: a string of the environment's, with its end.
    let fd = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC) };
    let (size, prot) = (size_of::<Counters>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping of a file that was just opened; it fails where that did.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size, prot, libc::MAP_SHARED, fd, 0) };
    // SAFETY: it was just opened, and the mapping has no need of it; it fails where opening did.
    unsafe { libc::close(fd) };
    Some(if memory == libc::MAP_FAILED { NOT_COUNTED } else { memory.cast() })
}

fn size(memory: *mut c_void) -> u64 {
    // SAFETY: null, or memory that malloc gave and nobody has freed.
    unsafe { libc::malloc_usable_size(memory) as u64 }
}

fn count(memory: *mut c_void) -> *mut c_void {
    if !memory.is_null()
        && let Some(counters) = counters()
    {
        counters[ALLOCATIONS].fetch_add(1, Ordering::Relaxed);
        counters[BYTES].fetch_add(size(memory), Ordering::Relaxed);
    }
    memory
}

/// malloc(3)
///
/// # Safety
/// As malloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: the caller's.
    count(unsafe { __libc_malloc(size) })
}

/// calloc(3)
///
/// # Safety
/// As calloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(many: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller's.
    count(unsafe { __libc_calloc(many, size) })
}

/// realloc(3): counts as an allocation.
///
/// # Safety
/// As realloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(old: *mut c_void, new_size: usize) -> *mut c_void {
    let before = size(old);
    // SAFETY: the caller's.
    let memory = unsafe { __libc_realloc(old, new_size) };
    // Where it fails, the old one stays; a size of zero frees it.
    if (!memory.is_null() || new_size == 0)
        && let Some(counters) = counters()
    {
        counters[BYTES].fetch_sub(before, Ordering::Relaxed);
    }
    count(memory)
}

/// memalign(3)
///
/// # Safety
/// As memalign(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller's.
    count(unsafe { __libc_memalign(align, size) })
}

/// aligned_alloc(3)
///
/// # Safety
/// As aligned_alloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller's.
    count(unsafe { __libc_memalign(align, size) })
}

/// posix_memalign(3)
///
/// # Safety
/// As posix_memalign(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(to: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    // SAFETY: a valid alignment.
    let memory = count(unsafe { __libc_memalign(align, size) });
    if memory.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's place.
    unsafe { *to = memory };
    0
}

/// free(3)
///
/// # Safety
/// As free(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(memory: *mut c_void) {
    if !memory.is_null()
        && let Some(counters) = counters()
    {
        counters[BYTES].fetch_sub(size(memory), Ordering::Relaxed);
    }
    // SAFETY: the caller's.
    unsafe { __libc_free(memory) };
}
