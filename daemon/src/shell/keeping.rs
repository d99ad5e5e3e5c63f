//! The keeper of this life of the service, what a former life has left with it, and whether another life
//! is to come.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use zbus::zvariant::OwnedObjectPath;

use super::former::Former;
use super::listener::KEEPER;
use crate::keeper::Keeper;

/// How long systemd is asked what becomes of the service.
const ANSWER: Duration = Duration::from_millis(500);
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// The former life's keeper, with what it has; or a new one, where systemd stores the connection to it.
pub(super) fn keeper(
    inherited: Option<OwnedFd>,
    helpers: &Path,
) -> (Option<Arc<Keeper>>, Option<Former>) {
    if let Some(fd) = inherited {
        let keeper = Keeper::from_fd(fd);
        match keeper.give().and_then(Former::of) {
            Ok(former) => return (Some(Arc::new(keeper)), former),
            Err(error) => {
                tracing::error!(name: "former-lost", %error, "what a former life has left cannot be taken over; it ends");
                if keeper.forget().is_ok() {
                    return (Some(Arc::new(keeper)), None);
                }
            }
        }
    }
    // systemd says by it that there is a store (systemd.exec(5)).
    if std::env::var_os("FDSTORE").is_none() {
        return (None, None);
    }
    let path = helpers.join("keeper.sock");
    let stored = Keeper::connect(&path).and_then(|keeper| {
        let states = [NotifyState::FdStore, NotifyState::FdName(KEEPER)];
        // It has nothing; that it answers is seen by that.
        keeper.give()?;
        sd_notify::notify_with_fds(false, &states, &[keeper.as_fd()])?;
        Ok(Arc::new(keeper))
    });
    match stored {
        Ok(keeper) => (Some(keeper), None),
        Err(error) => {
            let path = path.display();
            tracing::warn!(name: "keeper-missing", %error, %path, "there is no keeper: a restart loses what there is");
            (None, None)
        }
    }
}

/// Whether systemd stops the service for good, as far as it says so: then nobody comes for what is kept.
pub(super) async fn is_the_last() -> bool {
    let asked = async {
        let bus = zbus::Connection::system().await?;
        let manager = "/org/freedesktop/systemd1";
        let manager =
            zbus::Proxy::new(&bus, SYSTEMD, manager, "org.freedesktop.systemd1.Manager").await?;
        // Of process 0, who asks is meant.
        let unit: OwnedObjectPath = manager.call("GetUnitByPID", &(0_u32,)).await?;
        let unit = zbus::Proxy::new(&bus, SYSTEMD, unit, "org.freedesktop.systemd1.Unit").await?;
        let (_, job): (u32, OwnedObjectPath) = unit.get_property("Job").await?;
        let job = zbus::Proxy::new(&bus, SYSTEMD, job, "org.freedesktop.systemd1.Job").await?;
        job.get_property::<String>("JobType").await
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(kind)) => kind == "stop",
        Ok(Err(error)) => {
            tracing::debug!(%error, "systemd does not say what becomes of the service");
            false
        }
        Err(_) => false,
    }
}
