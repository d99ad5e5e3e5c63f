//! `Broker1.Inhibit`: what holds ejects up while a program on the bus keeps a descriptor.

use std::io;
use std::os::fd::OwnedFd;

use dmashare_proto::message::{Inhibit, InhibitMode, check_name};
use dmashare_proto::{DeviceId, ErrorCode, WireError};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::sync::oneshot;
use zbus::DBusError;
use zbus::fdo::ConnectionCredentials;
use zbus::zvariant::{self, ObjectPath, OwnedObjectPath};

use super::broker::BusError;
use super::served::device_path;
use super::sight::Eyes;
use super::{Asks, ROOT};
use crate::core::Credentials;
use crate::view::InhibitorView;

/// One as the property shows it: id, device (`/` for each), mode, why, who, pid, uid.
pub(super) type Row = (u64, OwnedObjectPath, String, String, String, u32, u32);

/// Somebody asked over the bus for an inhibitor.
#[derive(Debug)]
pub struct InhibitRequest {
    /// What.
    pub inhibit: Inhibit,
    /// What its holder calls itself.
    pub who: String,
    /// The caller, as the bus knows it.
    pub creds: Credentials,
    /// It is held until this hangs up. Close-on-exec and non-blocking.
    pub held: OwnedFd,
    /// For the answer.
    pub answer: oneshot::Sender<Result<(), WireError>>,
}

/// What a call can fail with.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
pub(super) enum InhibitError {
    /// The bus itself.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// The bus does not say who calls.
    CallerUnknown(String),
    /// The device is lost already.
    DeviceLost(String),
    /// No such device.
    UnknownDevice(String),
    /// A mode that there is not; a name or a reason that disturbs.
    BadValue(String),
    /// The caller has too many.
    OverQuota(String),
    /// The kernel refused.
    Failed(String),
    /// The broker stops.
    Stopping(String),
}

impl From<BusError> for InhibitError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::ZBus(error) => Self::ZBus(error),
            error => Self::CallerUnknown(error.to_string()),
        }
    }
}

impl From<WireError> for InhibitError {
    fn from(error: WireError) -> Self {
        let text = error.message;
        match error.code {
            ErrorCode::DEVICE_LOST => Self::DeviceLost(text),
            ErrorCode::UNKNOWN_DEVICE => Self::UnknownDevice(text),
            ErrorCode::OVER_QUOTA => Self::OverQuota(text),
            ErrorCode::BAD_VALUE => Self::BadValue(text),
            _ => Self::Failed(text),
        }
    }
}

/// What the call asks for, and in whose name.
pub(super) fn read(
    device: &ObjectPath<'_>,
    mode: &str,
    who: &str,
    why: &str,
) -> Result<(Inhibit, String), InhibitError> {
    let Some(mode) = InhibitMode::ALL.into_iter().find(|known| known.name() == mode) else {
        return Err(InhibitError::BadValue(format!("the mode is delay or block, not {mode:?}")));
    };
    check_name(who)?;
    let device = match device.as_str() {
        "/" => None,
        path => {
            let id = path.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix("/device/d"));
            let id = id.and_then(|id| id.parse().ok()).ok_or_else(|| {
                InhibitError::UnknownDevice(format!("{path} is no device; / stands for each"))
            })?;
            Some(DeviceId(id))
        }
    };
    Ok((Inhibit { device, mode, why: why.to_owned() }, who.to_owned()))
}

/// Takes an inhibitor for the caller; gives what it is held by.
pub(super) async fn inhibit(
    asks: &Asks,
    (inhibit, who): (Inhibit, String),
    caller: &ConnectionCredentials,
) -> Result<zvariant::OwnedFd, InhibitError> {
    let unknown =
        |what: &str| InhibitError::CallerUnknown(format!("the bus does not tell your {what}"));
    let uid = caller.unix_user_id().ok_or_else(|| unknown("user"))?;
    let pid = caller.process_id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| unknown("process"))?;
    let creds = Credentials { pid, uid, unit: String::new() };
    let (held, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|errno| InhibitError::Failed(format!("no pipe: {}", io::Error::from(errno))))?;
    let stopping = || InhibitError::Stopping("the broker is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    let request = InhibitRequest { inhibit, who, creds, held, answer };
    asks.inhibits.send(request).map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())??;
    Ok(theirs.into())
}

/// All that are held, as the property shows them: of other users' that there is one, and of which device.
pub(super) fn rows(inhibitors: &[InhibitorView], eyes: Eyes) -> Vec<Row> {
    let row = |held: &InhibitorView| {
        let device = held
            .device
            .map(device_path)
            .unwrap_or_else(|| ObjectPath::from_static_str_unchecked("/"));
        let mode = held.mode.name().to_owned();
        if !eyes.see(held.uid) {
            return (0, device.into(), mode, String::new(), String::new(), 0, held.uid);
        }
        let (why, who, pid) = (held.why.clone(), held.who.clone(), held.pid.unsigned_abs());
        (held.id.0, device.into(), mode, why, who, pid, held.uid)
    };
    inhibitors.iter().map(row).collect()
}
