//! Neutral buffers: memory of the broker's own, which no loss takes back. They have no device, so
//! nothing counts them but their user's account.

use dmashare_proto::message::{Allocate, Allocated, Layout, Reply};
use dmashare_proto::{ClientId, WireError, linear};

use super::accounts::{Charge, Kind, cost};
use super::buffers::Buffer;
use super::{Broker, CheckedPlane, Effect, Effects, Handles, Outgoing, Owned};

/// A neutral buffer that is to be made.
#[derive(Debug)]
pub struct Allocation {
    /// Who asks.
    pub client: ClientId,
    /// In which request.
    pub id: u64,
    /// Its layout; all planes in one dma-buf.
    pub layout: Layout,
    /// Bytes.
    pub size: u64,
    /// The bytes, and the dma-buf's descriptor.
    pub charges: [Charge; 2],
}

impl<H: Handles> Broker<H> {
    pub(super) fn allocate(
        &mut self,
        client: ClientId,
        id: u64,
        wanted: Allocate,
        out: &mut Effects<H>,
    ) {
        out.push(match self.plan_allocation(client, id, wanted) {
            Ok(allocation) => Effect::Allocate(allocation),
            Err(error) => Effect::error(client, id, error),
        });
        self.after(out);
    }

    fn plan_allocation(
        &mut self,
        client: ClientId,
        id: u64,
        wanted: Allocate,
    ) -> Result<Allocation, WireError> {
        let (layout, size) = linear::plan(wanted)?;
        self.may_have_one_more(client)?;
        let charges = [
            self.charge(client, Kind::Memory, size)?,
            self.charge(client, Kind::Descriptors, cost::NEUTRAL)?,
        ];
        self.one_more_wait(client)?;
        Ok(Allocation { client, id, layout, size, charges })
    }

    /// The shell has made the memory, or could not.
    pub fn allocated(
        &mut self,
        allocation: Allocation,
        made: Result<(CheckedPlane<H::Fd>, bool), WireError>,
        out: &mut Effects<H>,
    ) {
        let Allocation { client, id, layout, size: _, charges } = allocation;
        self.neutral_dirty = true;
        // Who has left takes nothing, and its account is settled.
        let Some(known) = self.clients.get_mut(&client) else { return };
        known.waits -= 1;
        // Others of the client's may have come first.
        let made = made.and_then(|made| self.may_have_one_more(client).map(|()| made));
        match made {
            Err(error) => out.push(Effect::error(client, id, error)),
            Ok((plane, cpu_sync)) => {
                let planes = vec![plane; layout.planes.len()];
                let sizes = planes.iter().map(|plane| plane.size).collect();
                let fds = planes.iter().map(|plane| plane.fd.clone()).collect();
                let buffer = self.ids.object();
                let reply = Allocated { buffer, layout: layout.clone(), sizes, cpu_sync };
                let new = Buffer::neutral(client, layout, planes, cpu_sync, charges);
                self.buffers.insert(buffer, new);
                self.note(client, buffer, Owned::Buffer);
                let message = Outgoing::Reply(id, Reply::Allocated(reply));
                out.push(Effect::Send { client, message, fds });
            }
        }
        self.after(out);
    }
}
