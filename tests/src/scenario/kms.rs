//! A screen: one pipe of a card, driven by atomic commits.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dmashare_uapi::sync_file;
use drm::buffer::{Buffer as KmsBuffer, DrmFourcc, Handle};
use drm::control::atomic::AtomicModeReq;
use drm::control::property::{self, Value};
use drm::control::{
    AtomicCommitFlags, Device as _, Event, Mode, PlaneType, ResourceHandle, connector, crtc,
    framebuffer, plane,
};
use drm::{ClientCapability, Device as _};

use crate::clock::now_ns;
use crate::{Buffer, Card};

struct Node(OwnedFd);

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl drm::Device for Node {}
impl drm::control::Device for Node {}

/// A buffer as the card knows it.
struct Imported {
    handle: Handle,
    size: (u32, u32),
    pitch: u32,
}

impl KmsBuffer for Imported {
    fn size(&self) -> (u32, u32) {
        self.size
    }
    fn format(&self) -> DrmFourcc {
        DrmFourcc::Xrgb8888
    }
    fn pitch(&self) -> u32 {
        self.pitch
    }
    fn handle(&self) -> Handle {
        self.handle
    }
}

type Properties = HashMap<String, property::Info>;

/// A connected screen. Its owner is the master of the card.
pub(super) struct Screen {
    node: Node,
    connector: connector::Handle,
    crtc: crtc::Handle,
    plane: plane::Handle,
    mode: Mode,
    properties: [Properties; 3],
}

impl Screen {
    /// Takes a card's screen.
    pub fn open(card: &Card) -> Result<Self> {
        let node = Node(card.open()?);
        node.set_client_capability(ClientCapability::UniversalPlanes, true)?;
        node.set_client_capability(ClientCapability::Atomic, true).context("atomic KMS")?;
        let resources = node.resource_handles()?;
        let connector = resources
            .connectors()
            .iter()
            .filter_map(|&handle| node.get_connector(handle, true).ok())
            .find(|info| info.state() == connector::State::Connected && !info.modes().is_empty())
            .context("no screen is connected")?;
        let &crtc = resources.crtcs().first().context("no CRTC")?;
        // The smallest is enough.
        let area = |mode: &&Mode| u32::from(mode.size().0) * u32::from(mode.size().1);
        let &mode = connector.modes().iter().min_by_key(area).context("no mode")?;
        let connector = connector.handle();
        let plane = primary_plane(&node, crtc)?;
        let properties = [
            node.get_properties(connector)?.as_hashmap(&node)?,
            node.get_properties(crtc)?.as_hashmap(&node)?,
            node.get_properties(plane)?.as_hashmap(&node)?,
        ];
        Ok(Self { node, connector, crtc, plane, mode, properties })
    }

    /// Pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.mode.size().0.into(), self.mode.size().1.into())
    }

    /// The card's node: another descriptor of the same open file.
    pub fn node(&self) -> Result<OwnedFd> {
        Ok(self.node.0.try_clone()?)
    }

    /// Makes a buffer, of this card or another, one that can be shown.
    pub fn framebuffer(&self, buffer: &Buffer) -> Result<framebuffer::Handle> {
        let handle =
            self.node.prime_fd_to_buffer(buffer.dma_buf.as_fd()).context("PRIME import")?;
        let (size, pitch) = (self.size(), buffer.layout.planes[0].stride);
        self.node.add_framebuffer(&Imported { handle, size, pitch }, 24, 32).context("framebuffer")
    }

    /// Turns the screen on.
    pub fn show(&self, shown: framebuffer::Handle) -> Result<()> {
        let (width, height) = self.size();
        let mode = self.node.create_property_blob(&self.mode)?;
        let mut request = AtomicModeReq::new();
        let crtc = Value::CRTC(Some(self.crtc));
        self.add(&mut request, 0, self.connector, "CRTC_ID", crtc)?;
        self.add(&mut request, 1, self.crtc, "MODE_ID", mode)?;
        self.add(&mut request, 1, self.crtc, "ACTIVE", Value::Boolean(true))?;
        self.add(&mut request, 2, self.plane, "FB_ID", Value::Framebuffer(Some(shown)))?;
        self.add(&mut request, 2, self.plane, "CRTC_ID", crtc)?;
        for (name, value) in [
            ("SRC_X", 0),
            ("SRC_Y", 0),
            ("SRC_W", u64::from(width) << 16),
            ("SRC_H", u64::from(height) << 16),
            ("CRTC_W", width.into()),
            ("CRTC_H", height.into()),
        ] {
            self.add(&mut request, 2, self.plane, name, Value::UnsignedRange(value))?;
        }
        for name in ["CRTC_X", "CRTC_Y"] {
            self.add(&mut request, 2, self.plane, name, Value::SignedRange(0))?;
        }
        let flags = AtomicCommitFlags::ALLOW_MODESET;
        self.node.atomic_commit(flags, request).context("turn the screen on")
    }

    /// Queues a flip that waits for a fence. It returns at once; [`Self::flipped`] tells of its end.
    pub fn flip(&self, to: framebuffer::Handle, fence: Option<BorrowedFd<'_>>) -> Result<()> {
        self.queue(self.request(to, fence)?)
    }

    /// The same; gives the fence that the card signals when the flip is done.
    pub fn flip_with_out_fence(
        &self,
        to: framebuffer::Handle,
        fence: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd> {
        let mut request = self.request(to, fence)?;
        let out = AtomicI32::new(-1);
        let place = Value::UnsignedRange(out.as_ptr().expose_provenance() as u64);
        self.add(&mut request, 1, self.crtc, "OUT_FENCE_PTR", place)?;
        self.queue(request)?;
        let fd = out.load(Ordering::Relaxed);
        ensure!(fd >= 0, "the commit gave no out-fence");
        // SAFETY: on success the kernel has installed a new descriptor and written its number there;
        // it is ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn request(
        &self,
        to: framebuffer::Handle,
        fence: Option<BorrowedFd<'_>>,
    ) -> Result<AtomicModeReq> {
        let mut request = AtomicModeReq::new();
        self.add(&mut request, 2, self.plane, "FB_ID", Value::Framebuffer(Some(to)))?;
        if let Some(fence) = fence {
            let fence = Value::SignedRange(fence.as_raw_fd().into());
            self.add(&mut request, 2, self.plane, "IN_FENCE_FD", fence)?;
        }
        Ok(request)
    }

    fn queue(&self, request: AtomicModeReq) -> Result<()> {
        let flags = AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::PAGE_FLIP_EVENT;
        Ok(self.node.atomic_commit(flags, request)?)
    }

    /// When the flip was done (its event read), CLOCK_MONOTONIC; `None` if not in time.
    pub fn flipped(&self, bound: Duration) -> Result<Option<u64>> {
        while sync_file::wait(self.node.as_fd(), Some(bound))? {
            let at_ns = now_ns();
            let mut events = self.node.receive_events()?;
            if events.any(|event| matches!(event, Event::PageFlip(_))) {
                return Ok(Some(at_ns));
            }
        }
        Ok(None)
    }

    fn add(
        &self,
        request: &mut AtomicModeReq,
        of: usize,
        object: impl ResourceHandle,
        name: &str,
        value: Value<'_>,
    ) -> Result<()> {
        let info = self.properties[of].get(name).with_context(|| format!("no property {name}"))?;
        let object: NonZeroU32 = object.into();
        request.add_raw_property(object, info.handle(), value.into());
        Ok(())
    }
}

fn primary_plane(node: &Node, crtc: crtc::Handle) -> Result<plane::Handle> {
    let resources = node.resource_handles()?;
    for plane in node.plane_handles()? {
        let crtcs = resources.filter_crtcs(node.get_plane(plane)?.possible_crtcs());
        let (ids, values) = {
            let properties = node.get_properties(plane)?;
            let (ids, values) = properties.as_props_and_values();
            (ids.to_vec(), values.to_vec())
        };
        for (id, value) in ids.into_iter().zip(values) {
            let is_type = node.get_property(id)?.name().to_bytes() == b"type";
            if is_type && value == PlaneType::Primary as u64 && crtcs.contains(&crtc) {
                return Ok(plane);
            }
        }
    }
    bail!("no primary plane")
}
