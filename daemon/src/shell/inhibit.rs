//! Inhibitors that are held over the bus: each until its holder closes a pipe.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use dmashare_proto::ObjectId;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Shared, Shell, poll};
use crate::bus::InhibitRequest;

/// Takes requests in, for ever.
pub(super) async fn take(shell: Shared, mut requests: UnboundedReceiver<InhibitRequest>) {
    while let Some(request) = requests.recv().await {
        let InhibitRequest { inhibit, who, creds, held, answer } = request;
        let pipe = match poll::register(Arc::new(held)) {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::error!(%error, "an inhibitor cannot be watched");
                // The answer is dropped: who asks is told that it failed.
                continue;
            }
        };
        let taken = {
            let mut shell = shell.borrow_mut();
            shell.journal.arriving = Some(Arc::clone(pipe.get_ref()));
            let taken = shell.event(|broker, out| broker.inhibit_by_bus(creds, who, inhibit, out));
            shell.journal.arriving = None;
            taken
        };
        let id = taken.as_ref().ok().copied();
        if answer.send(taken.map(drop)).is_err() {
            tracing::debug!("who asked for an inhibitor is gone");
        }
        if let Some(id) = id {
            tokio::task::spawn_local(until_released(Rc::downgrade(&shell), id, pipe));
        }
    }
}

/// Another life of the service has taken it in.
pub(super) fn go_on(shell: &Shared, id: ObjectId, pipe: OwnedFd) {
    match poll::register(Arc::new(pipe)) {
        Ok(pipe) => {
            tokio::task::spawn_local(until_released(Rc::downgrade(shell), id, pipe));
        }
        Err(error) => {
            tracing::error!(%id, %error, "an inhibitor cannot be watched; it is released");
            shell.borrow_mut().event(|broker, _| broker.inhibitor_released(id));
        }
    }
}

/// Nothing is to be read from it but its end. What is written all the same is thrown away.
async fn until_released(shell: Weak<RefCell<Shell>>, id: ObjectId, pipe: AsyncFd<Arc<OwnedFd>>) {
    let mut rubbish = [0; 4096];
    while let Ok(mut ready) = pipe.readable().await {
        match nix::unistd::read(pipe.get_ref().as_fd(), &mut rubbish) {
            Ok(0) => break,
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Ok(_) | Err(Errno::EINTR) => tokio::task::yield_now().await,
            Err(_) => break,
        }
    }
    // Weakly held, so that the service stops without its holders.
    if let Some(shell) = shell.upgrade() {
        shell.borrow_mut().event(|broker, _| broker.inhibitor_released(id));
    }
}
