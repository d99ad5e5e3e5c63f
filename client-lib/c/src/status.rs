//! `struct dmashare_status`

use dmashare::{FenceStatus, PointState};

use crate::argument::nanoseconds;
use crate::failure::{self, Failure, cause_number};

/// As C has it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Status {
    state: u32,
    cause: u32,
    error: i32,
    reserved: u32,
    at_ns: i64,
}

const PENDING: u32 = 0;
const OK: u32 = 1;
const FAILED: u32 = 2;
const UNKNOWN: u32 = 3;
const PROMISED: u32 = 4;
const FORGOTTEN: u32 = 5;

/// Leaves the sentence of one that has failed to `dmashare_last_error`.
impl From<FenceStatus> for Status {
    fn from(status: FenceStatus) -> Self {
        match status {
            FenceStatus::Pending => Self { state: PENDING, ..Self::default() },
            FenceStatus::Ok { at } => Self { state: OK, at_ns: nanoseconds(at), ..Self::default() },
            FenceStatus::Failed(error) => {
                failure::remember(Failure::from(dmashare::Error::Fence(error)));
                Self {
                    state: FAILED,
                    cause: cause_number(error.cause),
                    error: -error.errno,
                    at_ns: error.at.map_or(0, nanoseconds),
                    reserved: 0,
                }
            }
        }
    }
}

impl From<PointState> for Status {
    fn from(state: PointState) -> Self {
        let plain = |state| Self { state, ..Self::default() };
        let at_ns = |ns| i64::try_from(ns).unwrap_or(i64::MAX);
        match state {
            PointState::Unknown => plain(UNKNOWN),
            PointState::Promised => plain(PROMISED),
            PointState::Pending => plain(PENDING),
            PointState::Forgotten => plain(FORGOTTEN),
            PointState::Ok { at_ns: at } => Self { at_ns: at_ns(at), ..plain(OK) },
            PointState::Failed { cause, at_ns: at } => Self {
                state: FAILED,
                cause: cause_number(Some(cause)),
                error: -cause.errno(),
                at_ns: at_ns(at),
                reserved: 0,
            },
        }
    }
}
