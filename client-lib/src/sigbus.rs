//! For drivers that fault before anybody has told of the removal.

use dmashare_uapi::sigbus;

use crate::error::Error;

/// Installs a handler of SIGBUS for this process, for good: a fault inside a mapping of an import that
/// is made from here on is answered by zero pages in place, and the import is refused from that moment:
/// `begin` and `end` say [`Error::DeviceLost`], as if the loss had been told, and the first that does takes
/// back the import's other mappings and its fds. Every other SIGBUS goes to whom it went before: a handler
/// that was installed before, or the default, which ends the process.
///
/// The kernel's contract (Documentation/gpu/drm-uapi.rst, "Device Hot-Unplug") is that mappings of a
/// device that is gone do not fault; this is for what does not keep it. A library is not to call it, its
/// program is: a process has one handler for a signal. Call it once, before other threads fault, and
/// after handlers that are to be handed on to; who replaces it later is to hand on. 4096 mappings are
/// guarded at one time, the first ones: a fault in one beyond them is none of ours.
///
/// May be called from any thread; called again it does nothing. An offered alternate stack is used.
///
/// # Errors
/// The kernel's, for sigaction; none is expected.
pub fn install_sigbus_guard() -> Result<(), Error> {
    sigbus::install().map_err(|error| Error::io("cannot install a handler of SIGBUS", error))
}
