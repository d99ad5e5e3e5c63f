//! The service manager's watchdog: it is told that the service lives only when the main loop and the reactor
//! have both turned since the last time. A service whose manager does not ask has no such task, and no
//! wake-up by it.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::Shared;
use crate::reactor::Command;

/// Tells it, for ever.
pub(super) async fn feed(shell: Shared) {
    let Some(period) = period() else { return std::future::pending().await };
    loop {
        // This task turns only when the main loop does.
        tokio::time::sleep(period).await;
        let (answer, turned) = oneshot::channel();
        shell.borrow().reactor.send(Command::Turn(answer));
        if turned.await.is_err() {
            // It has ended, and tells so by itself.
            return std::future::pending().await;
        }
        if let Err(error) = sd_notify::notify(false, &[NotifyState::Watchdog]) {
            tracing::warn!(%error, "the service manager's watchdog is not told that this lives");
        }
    }
}

/// Half of what the service manager waits (sd_watchdog_enabled(3)); `None` if it does not ask.
fn period() -> Option<Duration> {
    let mut usec = 0;
    (sd_notify::watchdog_enabled(false, &mut usec) && usec > 0)
        .then(|| Duration::from_micros(usec / 2))
}
