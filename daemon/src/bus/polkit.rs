//! polkit, asked whether a caller may do what is not everybody's to do.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use zbus::Connection;
use zbus::zvariant::Value;

/// The action of `Rehearse`, as `org.dmashare.policy` has it.
pub(super) const REHEARSE: &str = "org.dmashare.rehearse";
/// The action of `Eject` without force, and of `Attach`.
pub(super) const EJECT: &str = "org.dmashare.eject";
/// The action of `Eject` with force.
pub(super) const EJECT_FORCE: &str = "org.dmashare.eject-force";
/// The action of `GetHolders` for other users' processes.
pub(super) const HOLDERS: &str = "org.dmashare.holders";
/// Callers that may wait at one time.
pub(super) const MOST: usize = 16;

const NAME: &str = "org.freedesktop.PolicyKit1";
const PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const INTERFACE: &str = "org.freedesktop.PolicyKit1.Authority";
/// Somebody may have to look for a password.
const PATIENCE: Duration = Duration::from_secs(120);
const ALLOW_USER_INTERACTION: u32 = 1;

/// Why not.
#[derive(Debug)]
pub(super) enum NotAllowed {
    /// polkit, or whoever it asked, refused.
    Refused,
    /// Somebody would have to be asked, and there is no agent for that, or the caller does not wait.
    NeedsInteraction,
    /// Nobody answered in time.
    NoAnswer,
    /// There is no polkit.
    NoAuthority,
    /// It failed.
    Failed(zbus::Error),
}

impl NotAllowed {
    /// In words.
    pub(super) fn of(self, action: &'static str) -> impl fmt::Display {
        Told { why: self, action }
    }
}

struct Told {
    why: NotAllowed,
    action: &'static str,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action;
        match &self.why {
            NotAllowed::Refused => write!(f, "polkit does not let you do so ({action})"),
            NotAllowed::NeedsInteraction => write!(
                f,
                "polkit would have to ask an administrator ({action}), and has nobody to ask: \
                 allow interactive authorization, and have an agent of polkit's running"
            ),
            NotAllowed::NoAnswer => {
                write!(f, "polkit was not answered within {} s", PATIENCE.as_secs())
            }
            NotAllowed::NoAuthority => write!(
                f,
                "there is no polkit on the bus to ask whether you may: do it as root, or install \
                 polkit"
            ),
            NotAllowed::Failed(error) => {
                write!(f, "polkit could not be asked whether you may: {error}")
            }
        }
    }
}

/// Asks whether the owner of a name on the bus may do something.
pub(super) async fn check(
    bus: &Connection,
    sender: &str,
    action: &str,
    interactive: bool,
) -> Result<(), NotAllowed> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let subject = ("system-bus-name", HashMap::from([("name", Value::from(sender))]));
    let details = HashMap::<&str, &str>::new();
    let flags = if interactive { ALLOW_USER_INTERACTION } else { 0 };
    let cancel = format!("dmashare-{}", CALLS.fetch_add(1, Ordering::Relaxed));
    let body = (subject, action, details, flags, cancel.as_str());
    let call = bus.call_method(Some(NAME), PATH, Some(INTERFACE), "CheckAuthorization", &body);
    let Ok(reply) = timeout(PATIENCE, call).await else {
        let call =
            bus.call_method(Some(NAME), PATH, Some(INTERFACE), "CancelCheckAuthorization", &cancel);
        // The dialogue goes; that it had to be taken away is answer enough.
        drop(timeout(Duration::from_secs(5), call).await);
        return Err(NotAllowed::NoAnswer);
    };
    let reply = reply.map_err(|error| {
        if is_absent(&error) { NotAllowed::NoAuthority } else { NotAllowed::Failed(error) }
    })?;
    type Answer = (bool, bool, HashMap<String, String>);
    let body = reply.body();
    match body.deserialize::<Answer>().map_err(NotAllowed::Failed)? {
        (true, _, _) => Ok(()),
        (false, true, _) => Err(NotAllowed::NeedsInteraction),
        (false, false, _) => Err(NotAllowed::Refused),
    }
}

fn is_absent(error: &zbus::Error) -> bool {
    let zbus::Error::MethodError(name, _, _) = error else { return false };
    let name = name.strip_prefix("org.freedesktop.DBus.Error.").unwrap_or_default();
    matches!(name, "ServiceUnknown" | "NameHasNoOwner") || name.starts_with("Spawn.")
}
