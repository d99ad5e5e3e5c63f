//! The small tasks that wait for something on behalf of the shell.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use dmashare_proto::activity::Activity;
use dmashare_uapi::pidfd;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};

use super::connection::{Peer, accept};
use super::{BUS_LAG, Shared};
use crate::bus::{CauseRequest, ConnectRequest, UsageRequest};
use crate::clock::monotonic_ns;
use crate::reactor::{Command, Notice};

/// Sends the bus what has changed, at most every [`BUS_LAG`]; sleeps while nothing does.
pub(super) async fn flush_to_bus(shell: Shared, dirty: Rc<Notify>) {
    loop {
        dirty.notified().await;
        tokio::time::sleep(BUS_LAG).await;
        shell.borrow_mut().flush_to_bus();
    }
}

/// Calls the core when a deadline of its own has passed.
pub(super) async fn watch_deadlines(shell: Shared, changed: Rc<Notify>) {
    loop {
        let next = shell.borrow().broker.next_deadline_ns();
        let Some(next) = next else {
            changed.notified().await;
            continue;
        };
        let wait = Duration::from_nanos(next.saturating_sub(monotonic_ns()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {
                let now_ns = monotonic_ns();
                shell.borrow_mut().event(|broker, out| broker.tick(now_ns, out));
            }
            () = changed.notified() => {}
        }
    }
}

/// Takes in connections that were made by D-Bus `Connect()`.
pub(super) async fn take_connects(shell: Shared, mut connects: UnboundedReceiver<ConnectRequest>) {
    while let Some(request) = connects.recv().await {
        let pidfd = request.pidfd.or_else(|| pidfd::open(request.pid).ok());
        let alive = pidfd.as_ref().is_none_or(|fd| pidfd::is_alive(fd.as_fd()).unwrap_or(true));
        if !alive {
            continue;
        }
        let peer = Peer { pid: request.pid, uid: request.uid, pidfd };
        if let Err(error) = accept(&shell, request.socket, peer) {
            tracing::error!(%error, "a connection could not be served");
        }
    }
}

/// Passes questions for causes on to the reactor, which answers behind all that it has ended: who was
/// woken by an end learns why.
pub(super) async fn take_cause_questions(
    shell: Shared,
    mut questions: UnboundedReceiver<CauseRequest>,
) {
    while let Some(request) = questions.recv().await {
        let shell = shell.borrow();
        let object = shell.broker.behind(request.object);
        shell.reactor.send(Command::AskCause(request, object));
    }
}

/// Tells what goes on, to who watches.
pub(super) async fn tell_activity(
    shell: Shared,
    mut watchers: UnboundedReceiver<oneshot::Sender<Vec<Activity>>>,
) {
    while let Some(watcher) = watchers.recv().await {
        if watcher.send(shell.borrow().broker.activity(monotonic_ns())).is_err() {
            tracing::debug!("who asked for the activity is gone");
        }
    }
}

/// Tells what is on the accounts, to who asks.
pub(super) async fn tell_usage(shell: Shared, mut questions: UnboundedReceiver<UsageRequest>) {
    while let Some(UsageRequest { uid, answer }) = questions.recv().await {
        let shell = shell.borrow();
        // What clients have received since they were sent something is not theirs any more.
        for outbox in shell.connections.values() {
            outbox.look();
        }
        if answer.send(shell.broker.usage(uid)).is_err() {
            tracing::debug!("who asked for the usage is gone");
        }
    }
}

/// Hands the reactor's notices to the core until the reactor has ended.
pub(super) async fn take_notices(shell: Shared, mut notices: UnboundedReceiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        if shell.borrow_mut().notice(notice) {
            return;
        }
    }
}
