//! `Device1.Eject`, `Device1.GetHolders`, `Job1.Cancel` and `Broker1.Attach`: who may, and the way to the
//! shell.

use std::collections::HashMap;

use dmashare_proto::DeviceId;
use dmashare_proto::holders::Holders;
use tokio::sync::oneshot;
use zbus::message::{Flags, Header};
use zbus::zvariant::{OwnedValue, Value};
use zbus::{Connection, DBusError};

use super::broker::{BusError, credentials};
use super::job::job_path;
use super::{Asks, polkit};
use crate::eject::{NudgeWhen, Options};

/// How long all before the removal takes at most, where the caller does not say.
const TIMEOUT_MS: u32 = 10_000;
/// The longest that a caller may say: a day is no limit any more.
const LONGEST_MS: u32 = 3_600_000;

/// Somebody asked over the bus for something about ejects. They may: that has been asked before.
#[derive(Debug)]
pub enum EjectRequest {
    /// `Device1.Eject`
    Eject {
        /// What.
        device: DeviceId,
        /// How; `delay_ns` is the configuration's.
        options: Options,
        /// The caller's user.
        uid: u32,
        /// The job.
        answer: oneshot::Sender<Result<u64, NotDone>>,
    },
    /// `Job1.Cancel`
    Cancel {
        /// Which.
        job: u64,
        /// That it is on its way.
        answer: oneshot::Sender<Result<(), NotDone>>,
    },
    /// `Device1.GetHolders`
    Holders {
        /// Of what.
        device: DeviceId,
        /// Processes of this user alone.
        only_of: Option<u32>,
        /// What was found.
        answer: oneshot::Sender<Result<Holders, NotDone>>,
    },
    /// `Broker1.Attach`
    Attach {
        /// That the kernel has looked.
        answer: oneshot::Sender<Result<(), NotDone>>,
    },
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// The device is lost already.
    DeviceLost,
    /// This job is at it.
    Busy(u64),
    /// The job has ended, or there is none.
    NoJob,
    /// The kernel is at it; a sentence.
    TooLate(String),
    /// It is refused; a sentence.
    Refused(String),
    /// It cannot be done with such a device; a sentence.
    Unsupported(String),
    /// Something failed; a sentence.
    Failed(String),
}

/// What a call can fail with.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
pub(super) enum EjectError {
    /// The bus itself.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// The bus does not say who calls.
    CallerUnknown(String),
    /// The device is lost already.
    DeviceLost(String),
    /// No such job, or it has ended.
    UnknownJob(String),
    /// An option that there is not, or a value out of its range.
    BadValue(String),
    /// The caller may not.
    NotAuthorized(String),
    /// Somebody is at it already.
    Busy(String),
    /// It cannot be cancelled any more.
    TooLate(String),
    /// Not unless it is forced.
    Refused(String),
    /// Not with such a device.
    Unsupported(String),
    /// A helper, or the kernel.
    Failed(String),
    /// The broker stops.
    Stopping(String),
}

impl From<BusError> for EjectError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::ZBus(error) => Self::ZBus(error),
            error => Self::CallerUnknown(error.to_string()),
        }
    }
}

impl From<NotDone> for EjectError {
    fn from(why: NotDone) -> Self {
        match why {
            NotDone::DeviceLost => {
                Self::DeviceLost("the device is lost already; name one that is present".to_owned())
            }
            NotDone::Busy(job) => {
                Self::Busy(format!("an eject of it is under way: {}", job_path(job)))
            }
            NotDone::NoJob => Self::UnknownJob("the job has ended".to_owned()),
            NotDone::TooLate(what) => Self::TooLate(format!(
                "it cannot be cancelled any more: {what}. When it has ended, Attach brings the device back"
            )),
            NotDone::Refused(text) => Self::Refused(text),
            NotDone::Unsupported(text) => Self::Unsupported(text),
            NotDone::Failed(text) => Self::Failed(text),
        }
    }
}

/// A caller, and the way to polkit.
pub(super) struct Caller<'a> {
    pub asks: &'a Asks,
    pub bus: &'a Connection,
    pub header: &'a Header<'a>,
}

impl Caller<'_> {
    async fn uid(&self) -> Result<u32, EjectError> {
        let caller = credentials(self.bus, self.header).await?;
        let unknown = "the bus does not tell your user";
        caller.unix_user_id().ok_or_else(|| EjectError::CallerUnknown(unknown.to_owned()))
    }

    /// Whether an authority lets the caller do something. Root is not asked.
    async fn may(&self, uid: u32, action: &'static str, what: &str) -> Result<(), EjectError> {
        if uid == 0 {
            return Ok(());
        }
        let interactive = self.header.primary().flags().contains(Flags::AllowInteractiveAuth);
        let sender = self.header.sender().map(ToString::to_string).unwrap_or_default();
        let _place = self.asks.authorities.try_acquire().map_err(|_| {
            let text = "too many wait for polkit's answer already; try again when some have it";
            EjectError::Busy(text.to_owned())
        })?;
        let allowed = polkit::check(self.bus, &sender, action, interactive).await;
        allowed.map_err(|why| EjectError::NotAuthorized(format!("{what}: {}", why.of(action))))
    }
}

/// Begins a job; gives its id.
pub(super) async fn eject(
    caller: Caller<'_>,
    device: DeviceId,
    options: HashMap<String, OwnedValue>,
) -> Result<u64, EjectError> {
    let options = read(&options)?;
    let uid = caller.uid().await?;
    // A dry run too: it tells who holds the device.
    let ends_others = options.force > 0 && !options.dry_run;
    let action = if ends_others { polkit::EJECT_FORCE } else { polkit::EJECT };
    caller.may(uid, action, "the device is not yours to eject").await?;
    let ask = |answer| EjectRequest::Eject { device, options, uid, answer };
    Ok(asked(caller.asks, ask).await??)
}

/// Cancels a job: its own user may, and who may eject.
pub(super) async fn cancel(caller: Caller<'_>, job: u64, owner: u32) -> Result<(), EjectError> {
    let uid = caller.uid().await?;
    if uid != owner {
        caller.may(uid, polkit::EJECT, "the eject is another user's").await?;
    }
    Ok(asked(caller.asks, |answer| EjectRequest::Cancel { job, answer }).await??)
}

/// Who holds a device, as JSON. Without an authority: of the caller's own processes.
pub(super) async fn holders(caller: Caller<'_>, device: DeviceId) -> Result<String, EjectError> {
    let uid = caller.uid().await?;
    let only_of = match caller.may(uid, polkit::HOLDERS, "other users' processes").await {
        Ok(()) => None,
        Err(EjectError::NotAuthorized(_)) => Some(uid),
        Err(error) => return Err(error),
    };
    let ask = |answer| EjectRequest::Holders { device, only_of, answer };
    let holders = asked(caller.asks, ask).await??;
    serde_json::to_string(&holders).map_err(|error| EjectError::Failed(error.to_string()))
}

/// Has the kernel look for what an eject has removed.
pub(super) async fn attach(caller: Caller<'_>) -> Result<(), EjectError> {
    let uid = caller.uid().await?;
    caller.may(uid, polkit::EJECT, "a device is not yours to bring back").await?;
    Ok(asked(caller.asks, |answer| EjectRequest::Attach { answer }).await??)
}

async fn asked<T>(
    asks: &Asks,
    request: impl FnOnce(oneshot::Sender<T>) -> EjectRequest,
) -> Result<T, EjectError> {
    let stopping = || EjectError::Stopping("the broker is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    asks.ejects.send(request(answer)).map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())
}

fn read(given: &HashMap<String, OwnedValue>) -> Result<Options, EjectError> {
    let mut options = Options {
        force: 0,
        timeout_ns: u64::from(TIMEOUT_MS) * 1_000_000,
        delay_ns: 0,
        dry_run: false,
        nudge: NudgeWhen::Auto,
        deauthorize: false,
    };
    for (key, value) in given {
        let wrong = |what: &str| EjectError::BadValue(format!("the option {key} is {what}"));
        let value: &Value<'_> = value;
        match (key.as_str(), value) {
            ("force", Value::U32(force @ 0..=2)) => {
                options.force = u8::try_from(*force).unwrap_or(0)
            }
            ("force", _) => return Err(wrong("a u: 0, 1 or 2")),
            ("timeout-ms", Value::U32(ms @ 1..=LONGEST_MS)) => {
                options.timeout_ns = u64::from(*ms) * 1_000_000;
            }
            ("timeout-ms", _) => return Err(wrong("a u: 1 to 3600000")),
            ("dry-run", Value::Bool(dry_run)) => options.dry_run = *dry_run,
            ("deauthorize", Value::Bool(deauthorize)) => options.deauthorize = *deauthorize,
            ("dry-run" | "deauthorize", _) => return Err(wrong("a b")),
            ("nudge", Value::Str(when)) => {
                options.nudge = match when.as_str() {
                    "auto" => NudgeWhen::Auto,
                    "always" => NudgeWhen::Always,
                    "never" => NudgeWhen::Never,
                    _ => return Err(wrong("auto, always or never")),
                };
            }
            ("nudge", _) => return Err(wrong("an s: auto, always or never")),
            _ => {
                return Err(wrong("not known; see force, timeout-ms, dry-run, nudge, deauthorize"));
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, value: impl Into<Value<'static>>) -> Result<Options, EjectError> {
        let value = OwnedValue::try_from(value.into()).unwrap();
        read(&HashMap::from([(key.to_owned(), value)]))
    }

    #[test]
    fn options_are_read_or_named() {
        assert_eq!(read(&HashMap::new()).unwrap().timeout_ns, 10_000_000_000);
        assert_eq!(given("force", 2_u32).unwrap().force, 2);
        assert_eq!(given("timeout-ms", 5_u32).unwrap().timeout_ns, 5_000_000);
        assert!(given("dry-run", true).unwrap().dry_run);
        assert_eq!(given("nudge", "never").unwrap().nudge, NudgeWhen::Never);
        for (key, error) in [
            ("force", given("force", 3_u32)),
            ("force", given("force", true)),
            ("timeout-ms", given("timeout-ms", 0_u32)),
            ("nudge", given("nudge", "maybe")),
            ("dry-run", given("dry-run", "yes")),
            ("forse", given("forse", 1_u32)),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(&format!("the option {key} is")), "{error}");
        }
    }
}
