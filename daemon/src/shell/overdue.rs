//! Clients that have not acknowledged a loss in time: looked at by a helper, named, met by the policy.

use dmashare_proto::kill::{How, Request};
use dmashare_proto::message::LossPolicy;
use dmashare_proto::report::Overdue as Entry;
use dmashare_proto::{ClientId, DeviceId};
use dmashare_uapi::pidfd;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Shared, Shell};
use crate::config::Overdue;

/// A late client.
pub(super) struct Late {
    pub device: DeviceId,
    pub client: ClientId,
    pub pid: i32,
    pub inodes: Vec<u64>,
    pub on_loss: LossPolicy,
}

/// Meets late clients one after the other. The service itself has no right to look into processes: a
/// helper has, which takes its time, and no longer than a limit.
pub(super) async fn meet(shell: Shared, mut late: UnboundedReceiver<Late>) {
    let helpers = shell.borrow().ejects.helpers.clone();
    while let Some(Late { device, client, pid, inodes, on_loss }) = late.recv().await {
        let seen = helpers.keeps(pid, inodes).await;
        let seen = seen.unwrap_or_else(|why| vec![format!("what it holds cannot be seen: {why}")]);
        shell.borrow_mut().meet(device, client, on_loss, seen);
    }
}

impl Shell {
    fn meet(
        &mut self,
        device: DeviceId,
        client: ClientId,
        on_loss: LossPolicy,
        holds: Vec<String>,
    ) {
        // It may have gone, or acknowledged, in the meantime.
        let Some(view) = self.broker.client_view(client) else { return };
        let Some(outbox) = self.connections.get(&client).cloned() else { return };
        if !self.broker.is_awaited(device, client) {
            return;
        }
        let overdue = met_by(self.overdue, on_loss);
        tracing::warn!(name: "client-overdue",
            device = device.0,
            pid = view.pid,
            name = view.name,
            unit = view.unit,
            holds = ?holds,
            on_loss = on_loss.name(),
            action = overdue.name(),
            "a client has not let go of a lost device in time"
        );
        let entry = Entry {
            pid: view.pid,
            uid: view.uid,
            name: view.name,
            unit: view.unit,
            holds,
            action: overdue.name().to_owned(),
        };
        self.event(|broker, _| broker.overdue_met(device, entry));
        match overdue {
            Overdue::Report => {}
            Overdue::Disconnect => outbox.break_off(),
            Overdue::Kill => {
                let start = start_of(view.pid, outbox.pidfd.as_ref());
                let helpers = self.ejects.helpers.clone();
                tokio::task::spawn_local(async move {
                    let killed = match start {
                        Ok(start) => {
                            helpers.kill(Request { pid: view.pid, start, how: How::Kill }).await
                        }
                        Err(error) => Err(error.to_string()),
                    };
                    if let Err(error) = killed {
                        tracing::error!(pid = view.pid, error, "a late client cannot be killed");
                    }
                    // Not before: it would end by itself on that.
                    outbox.break_off();
                });
            }
        }
    }
}

/// When a client's process was started, so that the helper ends it and no other that has its id since.
fn start_of(pid: i32, pidfd: Option<&OwnedFd>) -> io::Result<u64> {
    let pidfd = pidfd.ok_or_else(|| io::Error::other("it has no pidfd to be known by"))?;
    let start = pidfd::start_time(pid)?;
    // It is alive after that was read: so it was its own.
    if pidfd::is_alive(pidfd.as_fd())? {
        Ok(start)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, "it has ended by itself"))
    }
}

/// What is done with a late client, by the configuration and by what it wants done with itself.
fn met_by(policy: Overdue, on_loss: LossPolicy) -> Overdue {
    match (policy, on_loss) {
        (Overdue::Report, _) | (_, LossPolicy::Ignore) => Overdue::Report,
        (_, LossPolicy::Kill) => Overdue::Kill,
        (policy, LossPolicy::Wait | LossPolicy::Relaunch) => policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_say_but_in_what_is_only_reported() {
        for on_loss in LossPolicy::ALL {
            assert_eq!(met_by(Overdue::Report, on_loss), Overdue::Report);
        }
        assert_eq!(met_by(Overdue::Disconnect, LossPolicy::Kill), Overdue::Kill);
        assert_eq!(met_by(Overdue::Kill, LossPolicy::Ignore), Overdue::Report);
        assert_eq!(met_by(Overdue::Disconnect, LossPolicy::Relaunch), Overdue::Disconnect);
        assert_eq!(met_by(Overdue::Kill, LossPolicy::Wait), Overdue::Kill);
    }
}
