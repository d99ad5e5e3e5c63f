//! Why a call failed, as C is told: a negative errno, and the rest for `dmashare_last_error`.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use dmashare::{Cause, Error, FenceError};

use crate::argument::InOut;

/// A failed call.
pub(crate) struct Failure {
    /// Positive.
    pub(crate) errno: i32,
    text: String,
    info: ErrorInfo,
}

/// `struct dmashare_error_info`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ErrorInfo {
    version: u32,
    error: i32,
    code: u32,
    cause: u32,
    device_lost: i32,
    disconnected: i32,
    device: u64,
    object: u64,
    point: u64,
    at_ns: i64,
}

impl Failure {
    pub(crate) fn new(errno: i32, text: impl Into<String>) -> Self {
        Self { errno, text: text.into(), info: ErrorInfo::default() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(libc::EINVAL, text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut info = ErrorInfo {
            code: error.code().map_or(0, |code| code.0.into()),
            device_lost: error.is_device_lost().into(),
            disconnected: error.is_disconnected().into(),
            ..ErrorInfo::default()
        };
        match &error {
            Error::DeviceLost(lost) => {
                info.device = lost.device.0;
                info.cause = cause_number(lost.cause);
            }
            Error::Fence(fence) => info.describe(fence),
            Error::TimeUp { timeline, point } => {
                (info.object, info.point) = (timeline.0, *point);
            }
            _ => {}
        }
        Self { errno: error.errno(), text: error.to_string(), info }
    }
}

impl ErrorInfo {
    fn describe(&mut self, fence: &FenceError) {
        self.device = fence.device.0;
        self.object = fence.fence.0;
        self.point = fence.point.unwrap_or(0);
        self.cause = cause_number(fence.cause);
        self.at_ns = fence.at.map_or(0, crate::argument::nanoseconds);
    }
}

/// `enum dmashare_cause`
pub(crate) fn cause_number(cause: Option<Cause>) -> u32 {
    match cause {
        None => 0,
        Some(Cause::Unplugged) => 1,
        Some(Cause::Vanished) => 2,
        Some(Cause::Wedged) => 3,
        Some(Cause::Ejected) => 4,
        Some(Cause::Exporter(_)) => 5,
        Some(Cause::TimedOut) => 6,
        Some(Cause::Rehearsed) => 7,
    }
}

thread_local! {
    static LAST: RefCell<(CString, ErrorInfo)> = RefCell::default();
}

/// Keeps a failure as this thread's last; gives the negative errno.
pub(crate) fn remember(failure: Failure) -> c_int {
    let Failure { errno, text, mut info } = failure;
    // No errno at all would read as success.
    let errno = if errno > 0 { errno } else { libc::EIO };
    info.error = -errno;
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // It fails in a thread that is ending; then there is nobody to ask.
    LAST.try_with(|last| *last.borrow_mut() = (text, info)).ok();
    -errno
}

/// The border: no panic passes it, and no error without its sentence.
pub(crate) fn call(body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    give(body).unwrap_or_else(remember)
}

/// The same for what returns something else, and nothing where it fails.
pub(crate) fn value<R>(nothing: R, body: impl FnOnce() -> Result<R, Failure>) -> R {
    give(body).unwrap_or_else(|failure| {
        remember(failure);
        nothing
    })
}

fn give<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // What a panic leaves behind is behind locks that are used on, poisoned or not, and whose holders
    // do not panic between two changes that belong together.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Failure::new(libc::EIO, format!("a mistake in libdmashare: {said}")))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_last_error() -> *const c_char {
    let text = LAST.try_with(|last| last.borrow().0.as_ptr());
    text.unwrap_or(c"".as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_last_error_info(info: InOut<ErrorInfo>) -> c_int {
    call(|| {
        let last = LAST.try_with(|last| last.borrow().1).unwrap_or_default();
        info.put(last)?;
        Ok(0)
    })
}

const NAMES: [&CStr; 8] = [
    c"unknown",
    c"unplugged",
    c"vanished",
    c"wedged",
    c"ejected",
    c"exporter-error",
    c"timed-out",
    c"rehearsed",
];

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_cause_name(cause: u32) -> *const c_char {
    NAMES.get(cause as usize).unwrap_or(&NAMES[0]).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> (String, ErrorInfo) {
        LAST.with(|last| {
            let (text, info) = &*last.borrow();
            (text.to_str().unwrap().to_owned(), *info)
        })
    }

    #[test]
    fn a_panic_is_an_error() {
        let result = call(|| panic!("tables are {}", "wrong"));
        assert_eq!(result, -libc::EIO);
        assert_eq!(last().0, "a mistake in libdmashare: tables are wrong");
        assert_eq!(value(7, || panic!("so is this")), 7);
        assert_eq!(last().0, "a mistake in libdmashare: so is this");
    }

    #[test]
    fn errors_are_their_own_threads() {
        assert_eq!(call(|| Err(Failure::invalid("one"))), -libc::EINVAL);
        std::thread::spawn(|| {
            assert_eq!(last().0, "");
            assert_eq!(call(|| Err(Failure::new(0, "two"))), -libc::EIO);
            assert_eq!((last().0.as_str(), last().1.error), ("two", -libc::EIO));
        })
        .join()
        .unwrap();
        assert_eq!(last().0, "one");
    }

    #[test]
    fn causes_have_the_names_that_the_broker_gives() {
        let causes = [
            Cause::Unplugged,
            Cause::Vanished,
            Cause::Wedged,
            Cause::Ejected,
            Cause::Exporter(5),
            Cause::TimedOut,
            Cause::Rehearsed,
        ];
        for cause in causes {
            let name = NAMES[cause_number(Some(cause)) as usize];
            assert_eq!(name.to_str(), Ok(cause.name()));
        }
    }
}
