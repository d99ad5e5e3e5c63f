//! The good requests of a raw client.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, bail};
use dmashare_proto::message::{
    DeviceInfo, Export, Exported, FenceImported, FenceShared, Grant, Grantee, Import, Imported,
    Importer, Layout, Plane, Policy, Reply, Request, ShareFence, Terms,
};
use dmashare_proto::{ObjectId, Token};

use super::Raw;
use crate::Buffer;

/// The body of an answer that is to be of one kind.
macro_rules! answer {
    ($reply:expr, $kind:ident) => {
        match $reply {
            (Reply::$kind(body), fds) => (body, fds),
            (other, _) => bail!("no {} but {other:?}", stringify!($kind)),
        }
    };
}

/// `Export` of a layout.
#[must_use]
pub fn export(layout: &Layout) -> Request {
    Request::Export(Export { layout: layout.clone(), grant: None })
}

/// `Grant` of an object to whoever has the token.
#[must_use]
pub fn grant(object: ObjectId, uses: u32, ttl_ms: u32) -> Request {
    Request::Grant(Grant { object, terms: Terms { to: Grantee::Anyone, uses, ttl_ms } })
}

/// `Import` by the CPU alone.
#[must_use]
pub fn import(token: Token) -> Request {
    Request::Import(Import { token, by: Importer::Cpu })
}

/// `ShareFence` with a policy and the broker's deadline.
#[must_use]
pub fn share_fence(policy: Policy) -> Request {
    Request::ShareFence(ShareFence { policy, deadline_ms: 0, grant: None })
}

impl Raw {
    /// Exports a good buffer.
    pub fn export(&mut self, buffer: &Buffer) -> Result<Exported> {
        let fds = [buffer.node.as_fd(), buffer.dma_buf.as_fd()];
        Ok(answer!(self.request(&export(&buffer.layout), &fds)?, Exported).0)
    }

    /// A token for whoever has it, for an hour.
    pub fn grant(&mut self, object: ObjectId, uses: u32) -> Result<Token> {
        Ok(answer!(self.request(&grant(object, uses, 3_600_000), &[])?, Granted).0)
    }

    /// A token for one user.
    pub fn grant_to(&mut self, object: ObjectId, uid: u32) -> Result<Token> {
        let terms = Terms { to: Grantee::Uid(uid), uses: 1, ttl_ms: 3_600_000 };
        let grant = Grant { object, terms };
        Ok(answer!(self.request(&Request::Grant(grant), &[])?, Granted).0)
    }

    /// Imports for the CPU.
    pub fn import(&mut self, token: Token) -> Result<(Imported, Vec<OwnedFd>)> {
        Ok(answer!(self.request(&import(token), &[])?, Imported))
    }

    /// Shares a fence.
    pub fn share_fence(
        &mut self,
        node: BorrowedFd<'_>,
        fence: BorrowedFd<'_>,
    ) -> Result<FenceShared> {
        let request = share_fence(Policy::Auto);
        Ok(answer!(self.request(&request, &[node, fence])?, FenceShared).0)
    }

    /// Imports a fence.
    pub fn import_fence(&mut self, token: Token) -> Result<(FenceImported, Vec<OwnedFd>)> {
        Ok(answer!(self.request(&Request::ImportFence(token), &[])?, FenceImported))
    }

    /// Gives an object back.
    pub fn release(&mut self, object: ObjectId) -> Result<()> {
        let ((), _) = answer!(self.request(&Request::Release(object), &[])?, Done);
        Ok(())
    }

    /// Asks for the devices: to see that it is still served.
    pub fn devices(&mut self) -> Result<Vec<DeviceInfo>> {
        Ok(answer!(self.request(&Request::ListDevices(()), &[])?, Devices).0)
    }
}

/// A layout of 32-bit pixels, row after row.
#[must_use]
pub fn linear(width: u32, height: u32) -> Layout {
    Layout {
        width,
        height,
        fourcc: drm_fourcc::DrmFourcc::Xrgb8888 as u32,
        modifier: 0,
        planes: vec![Plane { offset: 0, stride: width * 4 }],
    }
}
