//! What a client says of itself, and what it holds up.

use std::fmt;
use std::sync::Arc;

use dmashare_proto::message::{Declare, Inhibit, InhibitMode, LossPolicy};
use dmashare_proto::{DeviceId, ObjectId, Reply, Request};

use crate::connection::Connection;
use crate::error::Error;
use crate::inner::{Answer, Inner};

impl Connection {
    /// States what is to be done with this client when a device that it uses goes, and whether it
    /// `survives` that without a loss to its user. It takes the place of what was stated before; at
    /// first that is [`LossPolicy::Wait`] and `false`. People are shown it, and ejects honour it.
    ///
    /// # Errors
    /// The request failed.
    pub fn declare(&self, on_loss: LossPolicy, survives: bool) -> Result<(), Error> {
        self.tell(&Request::Declare(Declare { on_loss, survives }))
    }

    /// Holds up ejects of a device, or of each for `None`, while the result lives: with
    /// [`InhibitMode::Delay`] up to the broker's limit, to save something; with
    /// [`InhibitMode::Block`] an eject is refused, and `why` told to who asked. A card that is pulled
    /// waits for nobody.
    ///
    /// # Errors
    /// The broker refused: `why` is empty, longer than 128 bytes or has control characters, the device
    /// is lost or unknown, a quota is used up.
    pub fn inhibit(
        &self,
        device: Option<DeviceId>,
        mode: InhibitMode,
        why: &str,
    ) -> Result<Inhibitor, Error> {
        let request = Request::Inhibit(Inhibit { device, mode, why: why.to_owned() });
        let (inner, answer) = self.ask(&request, &[])?;
        match answer {
            Answer::Plain(Reply::Inhibited(id)) => {
                Ok(Inhibitor { inner: Arc::clone(&inner), id, released: false })
            }
            other => Err(inner.nonsense(&request, other)),
        }
    }
}

/// Holds ejects up while it lives. Dropped, it is given back without waiting.
#[must_use = "it is given back at once"]
pub struct Inhibitor {
    inner: Arc<Inner>,
    id: ObjectId,
    released: bool,
}

impl Inhibitor {
    /// The broker's id for it.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Gives it back, and waits for the broker.
    ///
    /// # Errors
    /// The request failed; when the connection is closed it is given back all the same.
    pub fn release(mut self) -> Result<(), Error> {
        self.released = true;
        self.inner.tell(&Request::Release(self.id))
    }
}

impl Drop for Inhibitor {
    fn drop(&mut self) {
        if !self.released {
            self.inner.channel.post(&Request::Release(self.id));
        }
    }
}

impl fmt::Debug for Inhibitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inhibitor({})", self.id)
    }
}
