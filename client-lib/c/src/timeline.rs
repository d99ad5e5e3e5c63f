//! `struct dmashare_timeline`

use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd};

use dmashare::Direction;

use crate::argument::{self, In, Out};
use crate::connection::{Connection, guard_number};
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};
use crate::object::object_functions;
use crate::status::Status;
use crate::token::Token;

pub struct Timeline {
    pub(crate) object: dmashare::Timeline,
    pub(crate) connection: dmashare::Connection,
}

kinds! { 9 Timeline, "timeline"; }

object_functions!(
    Timeline,
    dmashare_timeline_id,
    dmashare_timeline_is_lost,
    dmashare_timeline_device,
    dmashare_timeline_destroy,
    dmashare_timeline_release
);

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_create_timeline(
    connection: Handle<Connection>,
    node: c_int,
    policy: u32,
    direction: u32,
    timeline: Out<Handle<Timeline>>,
) -> c_int {
    call(|| {
        timeline.check()?;
        let policy = argument::policy(policy)?;
        let direction = match direction {
            0 => Direction::Acquire,
            1 => Direction::Release,
            _ => return Err(Failure::invalid(format!("{direction} is no direction"))),
        };
        let node = argument::fd(node, "the DRM node")?;
        let connection = connection.get()?.connection.clone();
        let object = connection.create_timeline(node, policy, direction)?;
        timeline.put(Handle::new(Timeline { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_timeline(
    connection: Handle<Connection>,
    token: In<Token>,
    timeline: Out<Handle<Timeline>>,
) -> c_int {
    call(|| {
        timeline.check()?;
        let token = Token::read(&token)?;
        let connection = connection.get()?.connection.clone();
        let object = connection.import_timeline(token)?;
        timeline.put(Handle::new(Timeline { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_direction(timeline: Handle<Timeline>) -> c_int {
    call(|| {
        Ok(match timeline.get()?.object.direction() {
            Direction::Acquire => 0,
            Direction::Release => 1,
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_guard(timeline: Handle<Timeline>) -> c_int {
    call(|| Ok(guard_number(timeline.get()?.object.guard())))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_promised(timeline: Handle<Timeline>) -> u64 {
    value(0, || Ok(timeline.get()?.object.promised()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_promise(timeline: Handle<Timeline>, point: u64) -> c_int {
    call(|| {
        timeline.get()?.object.promise(point)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_submit(
    timeline: Handle<Timeline>,
    point: u64,
    node: c_int,
    sync_file: c_int,
    deadline_ns: i64,
) -> c_int {
    call(|| {
        let deadline = argument::deadline(deadline_ns)?;
        let node = argument::fd(node, "the DRM node")?;
        let sync_file = argument::fd(sync_file, "the sync_file")?;
        timeline.get()?.object.submit(point, node, sync_file, deadline)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_submit_done(timeline: Handle<Timeline>, point: u64) -> c_int {
    call(|| {
        timeline.get()?.object.submit_done(point)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_query(
    timeline: Handle<Timeline>,
    point: u64,
    status: Out<Status>,
) -> c_int {
    call(|| {
        status.check()?;
        status.put(timeline.get()?.object.query(point)?.into());
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_wait(
    timeline: Handle<Timeline>,
    point: u64,
    timeout_ns: i64,
) -> c_int {
    call(|| {
        timeline.get()?.object.wait(point, argument::timeout(timeout_ns))?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_syncobj_fd(timeline: Handle<Timeline>) -> c_int {
    call(|| Ok(timeline.get()?.object.syncobj().as_raw_fd()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_lost_fd(timeline: Handle<Timeline>) -> c_int {
    call(|| Ok(timeline.get()?.object.lost_fd().as_raw_fd()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_timeline_new_eventfd(
    timeline: Handle<Timeline>,
    drm: c_int,
    point: u64,
) -> c_int {
    call(|| {
        let drm = argument::fd(drm, "the DRM node")?;
        Ok(timeline.get()?.object.eventfd(drm, point)?.into_raw_fd())
    })
}
