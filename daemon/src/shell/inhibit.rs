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
        let taken =
            shell.borrow_mut().event(|broker, out| broker.inhibit_by_bus(creds, who, inhibit, out));
        let id = taken.as_ref().ok().copied();
        if answer.send(taken.map(drop)).is_err() {
            tracing::debug!("who asked for an inhibitor is gone");
        }
        if let Some(id) = id {
            tokio::task::spawn_local(until_released(Rc::downgrade(&shell), id, pipe));
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
