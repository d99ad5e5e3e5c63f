//! A guard in a buffer's reservation object, for importers that know implicit sync only.

use dmashare_proto::message::{AttachFence, Reply};
use dmashare_proto::{ClientId, ErrorCode, ObjectId, WireError};

use super::{Broker, Effect, Effects, Handles, Owned};

impl<H: Handles> Broker<H> {
    pub(super) fn attach_fence(
        &mut self,
        client: ClientId,
        id: u64,
        attach: AttachFence,
        out: &mut Effects<H>,
    ) {
        let found = self.attachable(client, attach);
        out.push(match found {
            Err(error) => Effect::error(client, id, error),
            Ok((Some(fence), buffers)) => {
                Effect::Attach { client, id, fence, buffers, access: attach.access }
            }
            // It has ended: nobody would wait for it.
            Ok((None, _)) => Effect::reply(client, id, Reply::Done(())),
        });
        self.after(out);
    }

    /// The shell has put it there, or the kernel has refused.
    pub fn attached(
        &mut self,
        client: ClientId,
        id: u64,
        result: Result<(), WireError>,
        out: &mut Effects<H>,
    ) {
        let reply = result.map_or_else(Reply::Error, Reply::Done);
        out.push(Effect::reply(client, id, reply));
    }

    #[allow(clippy::type_complexity, reason = "taken apart by the one caller")]
    fn attachable(
        &self,
        client: ClientId,
        attach: AttachFence,
    ) -> Result<(Option<H::Fd>, Vec<H::Fd>), WireError> {
        let (fence, _) = self.fence_named(client, attach.fence)?;
        let pending = self.fences.get(&fence).and_then(|fence| fence.pending.as_ref());
        let fence = pending.and_then(|pending| pending.fd.clone());
        let buffer = self.buffer_named(client, attach.buffer)?;
        let mut seen = Vec::new();
        let mut buffers = Vec::new();
        // Planes may share a dma-buf, which has one reservation object.
        for plane in self.buffers.get(&buffer).into_iter().flat_map(|buffer| &buffer.planes) {
            if !seen.contains(&plane.inode) {
                seen.push(plane.inode);
                buffers.push(plane.fd.clone());
            }
        }
        Ok((fence, buffers))
    }

    fn buffer_named(&self, client: ClientId, object: ObjectId) -> Result<ObjectId, WireError> {
        match self.owned(client, object)? {
            Owned::Buffer => Ok(object),
            Owned::Import => {
                let import = self.imports.get(&object);
                match import.map(|import| (import.buffer, import.device)) {
                    // Lost, and not acknowledged yet.
                    Some((_, Some(device))) if self.at(device).is_err() => {
                        Err(self.lost_error(device))
                    }
                    Some((buffer, _)) => Ok(buffer),
                    None => Err(WireError::new(ErrorCode::UNKNOWN_OBJECT, "the import is gone")
                        .about(object.0)),
                }
            }
            Owned::Lost(device) => Err(self.lost_error(device)),
            Owned::Fence
            | Owned::FenceImport
            | Owned::Timeline
            | Owned::TimelineImport
            | Owned::Inhibitor => {
                Err(WireError::new(ErrorCode::WRONG_OBJECT, "this is no buffer").about(object.0))
            }
        }
    }
}
