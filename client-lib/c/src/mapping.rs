//! `struct dmashare_mapping`

use std::ffi::{c_int, c_void};
use std::ptr;
use std::slice;

use dmashare::{MappedBuffer, Protection};

use crate::argument;
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};

pub struct Mapping(pub(crate) MappedBuffer);

kinds! { 6 Mapping, "mapping"; }

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_pointer(mapping: Handle<Mapping>) -> *mut c_void {
    value(ptr::null_mut(), || mapping.with(|mapping| Ok(mapping.0.as_ptr().cast())))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_size(mapping: Handle<Mapping>) -> usize {
    value(0, || mapping.with(|mapping| Ok(mapping.0.len())))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_begin(mapping: Handle<Mapping>, access: u32) -> c_int {
    call(|| {
        mapping.with(|mapping| {
            mapping.0.begin_access(argument::access(access)?)?;
            Ok(0)
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_end(mapping: Handle<Mapping>, access: u32) -> c_int {
    call(|| {
        mapping.with(|mapping| {
            mapping.0.end_access(argument::access(access)?)?;
            Ok(0)
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_end_checked(
    mapping: Handle<Mapping>,
    access: u32,
    node: c_int,
) -> c_int {
    call(|| {
        let access = argument::access(access)?;
        let mapping = mapping.get()?;
        match argument::fd(node, "the DRM node") {
            Ok(node) => mapping.0.end_access_checked(access, node)?,
            Err(failure) => {
                // What began ends all the same.
                mapping.0.end_access(access)?;
                return Err(failure);
            }
        }
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_copy_out(
    mapping: Handle<Mapping>,
    offset: usize,
    to: *mut c_void,
    size: usize,
) -> c_int {
    call(|| {
        if to.is_null() {
            return Err(Failure::invalid("the memory to copy to is NULL"));
        }
        let mapping = mapping.get()?;
        fits(&mapping.0, offset, size)?;
        // SAFETY: the caller gives that much memory, and it is no more than what is mapped. It may not be
        // initialised: it is written before anybody reads it.
        let to = unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), size) };
        mapping.0.copy_to_slice(offset, to)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_copy_in(
    mapping: Handle<Mapping>,
    offset: usize,
    from: *const c_void,
    size: usize,
) -> c_int {
    call(|| {
        if from.is_null() {
            return Err(Failure::invalid("the memory to copy from is NULL"));
        }
        let mapping = mapping.get()?;
        fits(&mapping.0, offset, size)?;
        // SAFETY: the caller gives that much memory, and it is no more than what is mapped.
        let from = unsafe { slice::from_raw_parts(from.cast::<u8>(), size) };
        mapping.0.copy_from_slice(offset, from)?;
        Ok(0)
    })
}

/// Before a size that is nonsense becomes a slice.
fn fits(mapping: &MappedBuffer, offset: usize, size: usize) -> Result<(), Failure> {
    match offset.checked_add(size) {
        Some(end) if end <= mapping.len() => Ok(()),
        _ => Err(Failure::invalid(format!(
            "{size} bytes at {offset} do not lie inside the {} that are mapped",
            mapping.len()
        ))),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_install_sigbus_guard() -> c_int {
    call(|| {
        dmashare::install_sigbus_guard()?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_is_revoked(mapping: Handle<Mapping>) -> c_int {
    call(|| Ok(mapping.get()?.0.is_revoked().into()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_protection(mapping: Handle<Mapping>) -> c_int {
    call(|| {
        Ok(match mapping.get()?.0.protection() {
            Protection::Read => 0,
            Protection::ReadWrite => 1,
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_mapping_destroy(mapping: Handle<Mapping>) -> c_int {
    call(|| mapping.remove().map(|_| 0))
}
