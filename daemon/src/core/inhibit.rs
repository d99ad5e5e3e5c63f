//! Inhibitors: what holds ejects up, and who holds it.

use dmashare_proto::message::{Inhibit, InhibitMode, Reply};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, WireError};
use serde::{Deserialize, Serialize};

use super::accounts::{Charge, Kind, cost};
use super::{Broker, Credentials, Effects, Handles, Owned};
use crate::view::InhibitorView;

/// Inhibitors that are held over the bus, by one user at most.
const PER_UID: usize = 64;

/// Who holds an inhibitor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Holder {
    /// A client of the socket, as its object.
    Client(ClientId),
    /// A program on the bus, by a pipe.
    Bus(Credentials, String, #[serde(skip)] Option<Charge>),
}

/// One that is held.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Inhibitor {
    pub holder: Holder,
    device: Option<DeviceId>,
    mode: InhibitMode,
    why: String,
}

impl<H: Handles> Broker<H> {
    pub(super) fn inhibit(
        &mut self,
        client: ClientId,
        inhibit: Inhibit,
    ) -> Result<Reply, WireError> {
        inhibit.check()?;
        let device = match inhibit.device {
            Some(device) => {
                let device = self.meant(client, device)?;
                let was_told = self.was_told_of(client, device);
                Some(self.may_be_inhibited(device, was_told)?)
            }
            None => None,
        };
        self.may_have_one_more(client)?;
        let holder = Holder::Client(client);
        let id = self.hold(holder, Inhibit { device, ..inhibit });
        self.note(client, id, Owned::Inhibitor);
        Ok(Reply::Inhibited(id))
    }

    /// The same for a program on the bus, which holds it until [`Self::inhibitor_released`].
    ///
    /// # Errors
    /// As for `Inhibit` of the socket.
    pub fn inhibit_by_bus(
        &mut self,
        creds: Credentials,
        who: String,
        inhibit: Inhibit,
        out: &mut Effects<H>,
    ) -> Result<ObjectId, WireError> {
        inhibit.check()?;
        // The bus shows all reports.
        let was_told = |device| self.reports.iter().any(|report| report.epoch() == device);
        let device = inhibit.device.map(|device| self.may_be_inhibited(device, was_told(device)));
        let device = device.transpose()?;
        let same = self.inhibitors.values().filter(
            |held| matches!(&held.holder, Holder::Bus(other, ..) if other.uid == creds.uid),
        );
        if same.count() >= PER_UID {
            return Err(WireError::new(
                ErrorCode::OVER_QUOTA,
                format!("{PER_UID} inhibitors of user {} are held; close some", creds.uid),
            ));
        }
        let account = self.accounts.user(creds.uid);
        let pipe = account.charge(Kind::Descriptors, cost::BUS_INHIBITOR)?;
        let id = self.hold(Holder::Bus(creds, who, Some(pipe)), Inhibit { device, ..inhibit });
        self.after(out);
        Ok(id)
    }

    /// The pipe of a program on the bus was closed.
    pub fn inhibitor_released(&mut self, id: ObjectId) {
        self.drop_inhibitor(id);
    }

    pub(super) fn drop_inhibitor(&mut self, id: ObjectId) {
        if self.inhibitors.remove(&id).is_some() {
            self.inhibitors_dirty = true;
            self.notes.inhibitor(id);
        }
    }

    fn hold(&mut self, holder: Holder, inhibit: Inhibit) -> ObjectId {
        let Inhibit { device, mode, why } = inhibit;
        let id = self.ids.object();
        self.inhibitors.insert(id, Inhibitor { holder, device, mode, why });
        self.notes.inhibitor(id);
        self.inhibitors_dirty = true;
        id
    }

    /// `was_told`: whoever asks knows that it was there.
    fn may_be_inhibited(&self, device: DeviceId, was_told: bool) -> Result<DeviceId, WireError> {
        if self.devices.get(&device).is_some_and(|known| known.lost.is_none()) {
            return Ok(device);
        }
        if was_told {
            return Err(self.lost_error(device));
        }
        let text = format!("there is no device {device} whose eject could be held up");
        Err(WireError::new(ErrorCode::UNKNOWN_DEVICE, text).about(device.0))
    }

    /// Those that hold up ejects of a device.
    #[must_use]
    pub fn inhibitors_of(&self, device: DeviceId) -> Vec<InhibitorView> {
        if self.inhibitors.is_empty() {
            return Vec::new();
        }
        let mut views = self.inhibitor_views();
        views.retain(|held| held.device.is_none_or(|of| of == device));
        views
    }

    /// All that are held, in the order in which they were taken.
    #[must_use]
    pub fn inhibitor_views(&self) -> Vec<InhibitorView> {
        let views = self.inhibitors.iter().map(|(&id, held)| {
            let (pid, uid, who) = match &held.holder {
                Holder::Client(client) => match self.clients.get(client) {
                    Some(known) => (known.creds.pid, known.creds.uid, known.name.clone()),
                    None => (0, 0, String::new()),
                },
                Holder::Bus(creds, who, _) => (creds.pid, creds.uid, who.clone()),
            };
            let (device, mode, why) = (held.device, held.mode, held.why.clone());
            InhibitorView { id, device, mode, why, who, pid, uid }
        });
        views.collect()
    }
}
