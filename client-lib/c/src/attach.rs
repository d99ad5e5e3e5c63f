//! A fence in a buffer's reservation object.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use dmashare::Buffer;

use crate::argument;
use crate::export::Export;
use crate::failure::{Failure, call};
use crate::fence::{Fence, SharedFence};
use crate::handle::Handle;
use crate::import::Import;
use crate::neutral::Neutral;

fn attach(
    (buffer, of_buffer): (&impl Buffer, &dmashare::Connection),
    (fence, of_fence): (&impl dmashare::Fence, &dmashare::Connection),
    access: u32,
) -> Result<c_int, Failure> {
    let access = argument::access(access)?;
    // Both are open, so equal numbers are the same one.
    if of_buffer.as_fd().as_raw_fd() != of_fence.as_fd().as_raw_fd() {
        return Err(Failure::invalid("the buffer and the fence are of different connections"));
    }
    of_buffer.attach(fence, buffer, access)?;
    Ok(0)
}

macro_rules! attach_functions {
    ($($name:ident $buffer:ty, $fence:ty;)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(
            buffer: Handle<$buffer>,
            fence: Handle<$fence>,
            access: u32,
        ) -> c_int {
            call(|| {
                let (buffer, fence) = (buffer.get()?, fence.get()?);
                attach(
                    (&buffer.object, &buffer.connection),
                    (&fence.object, &fence.connection),
                    access,
                )
            })
        }
    )* };
}

attach_functions! {
    dmashare_import_attach Import, Fence;
    dmashare_import_attach_shared Import, SharedFence;
    dmashare_export_attach Export, Fence;
    dmashare_export_attach_shared Export, SharedFence;
    dmashare_neutral_attach Neutral, Fence;
    dmashare_neutral_attach_shared Neutral, SharedFence;
}
