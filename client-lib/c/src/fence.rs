//! `struct dmashare_shared_fence` and `struct dmashare_fence`

use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd};

use crate::argument::{self, In, Out, Versioned};
use crate::connection::{Connection, guard_number};
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};
use crate::object::object_functions;
use crate::status::Status;
use crate::token::{Grant, Token};

pub struct SharedFence {
    pub(crate) object: dmashare::SharedFence,
    pub(crate) connection: dmashare::Connection,
}

pub struct Fence {
    pub(crate) object: dmashare::ImportedFence,
    pub(crate) connection: dmashare::Connection,
}

kinds! { 7 SharedFence, "shared fence"; 8 Fence, "fence"; }

object_functions!(
    SharedFence,
    dmashare_shared_fence_id,
    dmashare_shared_fence_is_lost,
    dmashare_shared_fence_device,
    dmashare_shared_fence_destroy,
    dmashare_shared_fence_release
);

object_functions!(
    Fence,
    dmashare_fence_id,
    dmashare_fence_is_lost,
    dmashare_fence_device,
    dmashare_fence_destroy,
    dmashare_fence_release
);

/// `struct dmashare_fence_options`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FenceOptions {
    version: u32,
    policy: u32,
    deadline_ns: i64,
}

// SAFETY: `#[repr(C)]`, integers, the first a u32.
unsafe impl Versioned for FenceOptions {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl FenceOptions {
    fn read(options: &In<Self>) -> Result<dmashare::FenceOptions, Failure> {
        let Some(options) = options.versioned()? else {
            return Ok(dmashare::FenceOptions::default());
        };
        let policy = argument::policy(options.policy)?;
        Ok(dmashare::FenceOptions { policy, deadline: argument::deadline(options.deadline_ns)? })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_share_fence(
    connection: Handle<Connection>,
    node: c_int,
    sync_file: c_int,
    options: In<FenceOptions>,
    fence: Out<Handle<SharedFence>>,
) -> c_int {
    call(|| {
        fence.check()?;
        let options = FenceOptions::read(&options)?;
        let node = argument::fd(node, "the DRM node")?;
        let sync_file = argument::fd(sync_file, "the sync_file")?;
        let connection = connection.get()?.connection.clone();
        let object = connection.share_fence(node, sync_file, options)?;
        fence.put(Handle::new(SharedFence { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_share_fence_granted(
    connection: Handle<Connection>,
    node: c_int,
    sync_file: c_int,
    options: In<FenceOptions>,
    grant: In<Grant>,
    fence: Out<Handle<SharedFence>>,
    token: Out<Token>,
) -> c_int {
    call(|| {
        fence.check()?;
        token.check()?;
        let (options, grant) = (FenceOptions::read(&options)?, Grant::read(&grant)?);
        let node = argument::fd(node, "the DRM node")?;
        let sync_file = argument::fd(sync_file, "the sync_file")?;
        let connection = connection.get()?.connection.clone();
        let (object, made) = connection.share_fence_granted(node, sync_file, options, grant)?;
        fence.put(Handle::new(SharedFence { object, connection })?);
        token.put(made.into());
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_shared_fence_guard(fence: Handle<SharedFence>) -> c_int {
    call(|| Ok(guard_number(fence.get()?.object.guard())))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_shared_fence_query(
    fence: Handle<SharedFence>,
    status: Out<Status>,
) -> c_int {
    call(|| {
        status.check()?;
        status.put(fence.get()?.object.query()?.into());
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_fence(
    connection: Handle<Connection>,
    token: In<Token>,
    fence: Out<Handle<Fence>>,
) -> c_int {
    call(|| {
        fence.check()?;
        let token = Token::read(&token)?;
        let connection = connection.get()?.connection.clone();
        let object = connection.import_fence(token)?;
        fence.put(Handle::new(Fence { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_fence_guard(fence: Handle<Fence>) -> c_int {
    call(|| Ok(guard_number(fence.get()?.object.guard())))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_fence_fd(fence: Handle<Fence>, fd: Out<c_int>) -> c_int {
    call(|| {
        fd.check()?;
        fd.put(fence.get()?.object.fd().map_or(-1, |fd| fd.as_raw_fd()));
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_fence_dup_fd(fence: Handle<Fence>, fd: Out<c_int>) -> c_int {
    call(|| {
        fd.check()?;
        fd.put(fence.get()?.object.dup_fd()?.map_or(-1, IntoRawFd::into_raw_fd));
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_fence_take_fd(fence: Handle<Fence>, fd: Out<c_int>) -> c_int {
    call(|| {
        fd.check()?;
        fd.put(fence.into_inner()?.object.into_fd().map_or(-1, IntoRawFd::into_raw_fd));
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_fence_status(fence: Handle<Fence>, status: Out<Status>) -> c_int {
    wait(fence, 0, &status)
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_fence_wait(
    fence: Handle<Fence>,
    timeout_ns: i64,
    status: Out<Status>,
) -> c_int {
    wait(fence, timeout_ns, &status)
}

fn wait(fence: Handle<Fence>, timeout_ns: i64, status: &Out<Status>) -> c_int {
    call(|| {
        status.check()?;
        status.put(fence.get()?.object.wait(argument::timeout(timeout_ns))?.into());
        Ok(0)
    })
}
