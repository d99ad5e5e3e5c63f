//! `Device1.Rehearse`: who may, and the way to the shell.

use std::time::Duration;

use dmashare_proto::{ClientId, DeviceId};
use tokio::sync::oneshot;
use zbus::message::{Flags, Header};
use zbus::{Connection, DBusError};

use super::broker::{BusError, credentials};
use super::{Asks, polkit};
use crate::core::NotRehearsed;

/// The longest that a rehearsal can be put off.
const LATEST: Duration = Duration::from_secs(3600);

/// Somebody asked over the bus for a rehearsal.
#[derive(Debug)]
pub struct RehearseRequest {
    /// What is to be lost.
    pub device: DeviceId,
    /// For whom alone; for all if `None`.
    pub client: Option<ClientId>,
    /// In how long.
    pub after: Duration,
    /// The caller's user.
    pub uid: u32,
    /// An authority lets the caller do so, whoever the client is.
    pub authorised: bool,
    /// For the answer: that it will be, or why not.
    pub answer: oneshot::Sender<Result<(), NotScheduled>>,
}

/// Why a rehearsal will not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotScheduled {
    /// The client is another user's, or it is for all: an authority has to be asked.
    NotYours,
    /// As things are now.
    Impossible(NotRehearsed),
    /// So many of the user's wait for their time.
    TooMany(usize),
}

/// What a call can fail with.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
pub(super) enum RehearseError {
    /// The bus itself.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// The bus does not say who calls.
    CallerUnknown(String),
    /// The device is lost already.
    DeviceLost(String),
    /// No such client.
    UnknownClient(String),
    /// A time beyond the longest.
    BadValue(String),
    /// The caller may not.
    NotAuthorized(String),
    /// There is too much of something.
    Busy(String),
    /// The broker stops.
    Stopping(String),
}

/// Who has to be asked first is asked while the caller waits.
pub(super) async fn rehearse(
    asks: &Asks,
    device: DeviceId,
    client: u64,
    after_ms: u32,
    bus: &Connection,
    header: &Header<'_>,
) -> Result<(), RehearseError> {
    let after = Duration::from_millis(after_ms.into());
    if after > LATEST {
        let most = LATEST.as_millis();
        let text = format!("a rehearsal is put off by {most} ms at most, not {after_ms}");
        return Err(RehearseError::BadValue(text));
    }
    let client = Some(ClientId(client)).filter(|client| client.0 != 0);
    let caller = credentials(bus, header).await.map_err(|error| match error {
        BusError::ZBus(error) => RehearseError::ZBus(error),
        error => RehearseError::CallerUnknown(error.to_string()),
    })?;
    let uid = caller.unix_user_id().ok_or_else(|| {
        RehearseError::CallerUnknown("the bus does not tell your user".to_owned())
    })?;
    match ask(asks, device, client, after, uid, false).await? {
        Err(NotScheduled::NotYours) => {}
        result => return result.map_err(in_words),
    }
    let interactive = header.primary().flags().contains(Flags::AllowInteractiveAuth);
    let sender = header.sender().map(ToString::to_string).unwrap_or_default();
    let _place = asks.authorities.try_acquire().map_err(|_| {
        let text = "too many wait for polkit's answer already; try again when some have it";
        RehearseError::Busy(text.to_owned())
    })?;
    polkit::check(bus, &sender, polkit::REHEARSE, interactive).await.map_err(|why| {
        let whose = match client {
            Some(client) => format!("client {client} is another user's"),
            None => "a rehearsal for all clients is not only for your own".to_owned(),
        };
        RehearseError::NotAuthorized(format!("{whose}, and {}", why.of(polkit::REHEARSE)))
    })?;
    ask(asks, device, client, after, uid, true).await?.map_err(in_words)
}

async fn ask(
    asks: &Asks,
    device: DeviceId,
    client: Option<ClientId>,
    after: Duration,
    uid: u32,
    authorised: bool,
) -> Result<Result<(), NotScheduled>, RehearseError> {
    let stopping = || RehearseError::Stopping("the broker is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    let request = RehearseRequest { device, client, after, uid, authorised, answer };
    asks.rehearsals.send(request).map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())
}

fn in_words(why: NotScheduled) -> RehearseError {
    match why {
        NotScheduled::NotYours => {
            RehearseError::NotAuthorized("the client is another user's".to_owned())
        }
        NotScheduled::TooMany(most) => RehearseError::Busy(format!(
            "{most} rehearsals of yours wait for their time already; try again after one of them"
        )),
        NotScheduled::Impossible(NotRehearsed::DeviceLost(device)) => RehearseError::DeviceLost(
            format!("device {device} is lost already; name one that is present"),
        ),
        NotScheduled::Impossible(NotRehearsed::NoClient(client)) => RehearseError::UnknownClient(
            format!("there is no client {client} (any more); `dmasharectl status` lists them"),
        ),
        NotScheduled::Impossible(NotRehearsed::NoRoom) => RehearseError::Busy(
            "the device could not come back: the state page has no room for one more".to_owned(),
        ),
    }
}
