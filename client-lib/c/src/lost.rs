//! `struct dmashare_lost`

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::argument::{InOut, Out, Versioned, nanoseconds};
use crate::failure::{Failure, call, cause_number, value};
use crate::handle::{Handle, kinds};

pub struct Lost {
    lost: dmashare::Lost,
    taken: AtomicBool,
}

kinds! { 10 Lost, "lost device"; }

impl Lost {
    pub(crate) fn new(lost: dmashare::Lost) -> Self {
        Self { lost, taken: AtomicBool::new(false) }
    }

    /// The callback has returned: acknowledges, unless it was taken (or acknowledged) there.
    pub(crate) fn told(handle: Handle<Self>) {
        if handle.get().is_ok_and(|lost| !lost.taken.load(Ordering::Acquire)) {
            handle.remove().ok();
        }
    }
}

/// `struct dmashare_lost_info`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LostInfo {
    version: u32,
    cause: u32,
    device: u64,
    at_ns: i64,
    buffers: u32,
    fences: u32,
    imports: u32,
    failed: u32,
    awaited: u32,
}

// SAFETY: `#[repr(C)]`, integers, the first a u32.
unsafe impl Versioned for LostInfo {
    const SIZES: &'static [usize] = &[std::mem::offset_of!(LostInfo, awaited) + size_of::<u32>()];
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_lost_info(lost: Handle<Lost>, info: InOut<LostInfo>) -> c_int {
    call(|| {
        let lost = &lost.get()?.lost;
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        info.put(LostInfo {
            version: 0,
            cause: cause_number(Some(lost.cause())),
            device: lost.device().0,
            at_ns: nanoseconds(lost.at()),
            buffers: lost.buffers(),
            fences: lost.fences(),
            imports: count(lost.imports().count()),
            failed: count(lost.failed().len()),
            awaited: lost.is_awaited().into(),
        })?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_lost_import(lost: Handle<Lost>, index: usize) -> u64 {
    value(0, || Ok(lost.get()?.lost.imports().nth(index).map_or(0, |import| import.0)))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_lost_failed(
    lost: Handle<Lost>,
    index: usize,
    import: Out<u64>,
    error: Out<c_int>,
) -> c_int {
    call(|| {
        import.check()?;
        error.check()?;
        let lost = lost.get()?;
        let failed = lost.lost.failed();
        let (id, why) = failed.get(index).ok_or_else(|| {
            Failure::invalid(format!("{} imports failed, so no number {index}", failed.len()))
        })?;
        import.put(id.0);
        error.put(-why.raw_os_error().unwrap_or(libc::EIO));
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_lost_take(lost: Handle<Lost>) -> c_int {
    call(|| {
        lost.get()?.taken.store(true, Ordering::Release);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_lost_acknowledge(lost: Handle<Lost>) -> c_int {
    call(|| {
        lost.into_inner()?.lost.acknowledge()?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_lost_destroy(lost: Handle<Lost>) -> c_int {
    call(|| lost.remove().map(|_| 0))
}
