//! Clients that have not acknowledged a loss in time: looked at in /proc, named, met by the policy.

use dmashare_proto::message::LossPolicy;
use dmashare_proto::report::Overdue as Entry;
use dmashare_proto::{ClientId, DeviceId};
use dmashare_uapi::pidfd::send_signal;
use std::os::fd::AsFd;
use tokio::sync::mpsc::UnboundedReceiver;

use super::beside::beside;
use super::{Shared, Shell};
use crate::config::Overdue;
use crate::kernel::holds::holds;

/// A late client.
pub(super) struct Late {
    pub device: DeviceId,
    pub client: ClientId,
    pub pid: i32,
    pub inodes: Vec<u64>,
    pub on_loss: LossPolicy,
}

/// Meets late clients one after the other. Looking through a process with many files takes its time,
/// so it is done beside the main thread.
pub(super) async fn meet(shell: Shared, mut late: UnboundedReceiver<Late>) {
    while let Some(Late { device, client, pid, inodes, on_loss }) = late.recv().await {
        let seen = beside("holds", move || holds(pid, &inodes)).await;
        let seen = seen.unwrap_or_else(|error| vec![format!("looking at it failed: {error}")]);
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
        tracing::warn!(
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
                let killed = outbox
                    .pidfd
                    .as_ref()
                    .map(|pidfd| send_signal(pidfd.as_fd(), nix::sys::signal::Signal::SIGKILL));
                match killed {
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        tracing::error!(pid = view.pid, %error, "a late client cannot be killed");
                    }
                    None => {
                        tracing::error!(pid = view.pid, "a late client has no pidfd to kill by")
                    }
                }
                outbox.break_off();
            }
        }
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
