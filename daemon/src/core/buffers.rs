//! Buffers and their imports.

use std::collections::HashSet;

use dmashare_proto::message::{GuardKind, Imported, Layout, Reply};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token, WireError};

use super::accounts::{Charge, Kind};
use super::{Broker, CheckedPlane, Handles, Owned, layout};
use crate::devices::NodeId;
use crate::gate::{DeviceRef, Gate, Kind as Held};

/// An exported or allocated buffer. It lives while its exporter or an import holds it.
#[derive(Debug)]
pub(super) struct Buffer<F> {
    /// What made it; `None` for a neutral one.
    pub device: Option<DeviceId>,
    pub exporter: Option<ClientId>,
    pub layout: Layout,
    pub planes: Vec<CheckedPlane<F>>,
    pub imports: HashSet<ObjectId>,
    pub cpu_sync: bool,
    pub cost: Cost,
}

/// What a buffer costs until it is dropped.
#[derive(Debug)]
pub(super) enum Cost {
    Exported(#[allow(dead_code, reason = "it is held, not looked at")] (DeviceRef, Charge)),
    /// Its bytes, and its descriptor.
    Neutral([Charge; 2]),
}

/// One client's use of a buffer. After a loss it stands for what the client still has to let go of.
#[derive(Debug)]
pub(super) struct Import {
    /// The exporter device; `None` where the buffer is neutral.
    pub device: Option<DeviceId>,
    pub buffer: ObjectId,
    pub client: ClientId,
    pub inodes: Vec<u64>,
    pub _reference: Option<DeviceRef>,
}

impl<F> Buffer<F> {
    pub fn neutral(
        client: ClientId,
        layout: Layout,
        planes: Vec<CheckedPlane<F>>,
        cpu_sync: bool,
        charges: [Charge; 2],
    ) -> Self {
        let (device, exporter, imports) = (None, Some(client), HashSet::new());
        Self { device, exporter, layout, planes, imports, cpu_sync, cost: Cost::Neutral(charges) }
    }
}

impl<H: Handles> Broker<H> {
    pub(super) fn export(
        &mut self,
        client: ClientId,
        node: NodeId,
        layout: Layout,
        planes: Vec<CheckedPlane<H::Fd>>,
    ) -> Result<Reply, WireError> {
        let device = self.device_of(node)?;
        self.may_have_one_more(client)?;
        let at = self.at(device)?;
        self.takes_new(device)?;
        layout::check(&layout, &planes.iter().map(|plane| plane.size).collect::<Vec<_>>())?;
        let known = &self.devices[&device];
        for (i, plane) in planes.iter().enumerate() {
            device_made(&known.desc.driver, &plane.exporter).map_err(|why| {
                WireError::new(
                    ErrorCode::WRONG_DEVICE,
                    format!("plane {i} was not made by {}: {why}", known.desc.name),
                )
                .about(device.0)
            })?;
        }
        let reference =
            Gate::acquire(&known.gate, Held::Buffer).map_err(|_| self.lost_error(device))?;
        let descriptors = self.charge(client, Kind::Descriptors, planes.len() as u64)?;
        let id = self.ids.object();
        self.buffers.insert(
            id,
            Buffer {
                device: Some(device),
                exporter: Some(client),
                layout,
                planes,
                imports: HashSet::new(),
                // Only simulated buffers are plain memory.
                cpu_sync: self.backend != GuardKind::Simulated,
                cost: Cost::Exported((reference, descriptors)),
            },
        );
        self.note(client, id, Owned::Buffer);
        self.touch(device, |device| {
            device.made.buffers += 1;
            device.buffers.insert(id)
        });
        Ok(Reply::Exported(dmashare_proto::message::Exported { buffer: id, at, token: None }))
    }

    pub(super) fn import(
        &mut self,
        now_ns: u64,
        client: ClientId,
        token: Token,
        by: Option<NodeId>,
    ) -> Result<(Reply, Vec<H::Fd>), WireError> {
        let object = self.look_at_token(now_ns, client, &token)?;
        if let Some(node) = by {
            self.device_of(node)?;
        }
        self.may_have_one_more(client)?;
        let Some(buffer) = self.buffers.get(&object) else {
            return Err(WireError::new(
                ErrorCode::WRONG_OBJECT,
                "the token is for a fence or a timeline; use ImportFence or ImportTimeline",
            )
            .about(object.0));
        };
        let device = buffer.device;
        let at = device.map(|device| self.at(device)).transpose()?;
        if let Some(device) = device {
            self.takes_new(device)?;
        }
        let reference = match device {
            Some(device) => Some(
                Gate::acquire(&self.devices[&device].gate, Held::Import)
                    .map_err(|_| self.lost_error(device))?,
            ),
            None => None,
        };
        let import = self.ids.object();
        let inodes = buffer.planes.iter().map(|plane| plane.inode).collect();
        let imported = Imported {
            import,
            buffer: object,
            at,
            layout: buffer.layout.clone(),
            sizes: buffer.planes.iter().map(|plane| plane.size).collect(),
            cpu_sync: buffer.cpu_sync,
        };
        let fds = buffer.planes.iter().map(|plane| plane.fd.clone()).collect();
        self.imports.insert(
            import,
            Import { device, buffer: object, client, inodes, _reference: reference },
        );
        if let Some(buffer) = self.buffers.get_derived(&object) {
            buffer.imports.insert(import);
        }
        self.use_token(&token);
        self.note(client, import, Owned::Import);
        if let Some(device) = device {
            self.touch(device, |device| {
                device.made.imports += 1;
                device.imports.insert(import)
            });
        }
        Ok((Reply::Imported(imported), fds))
    }

    /// The exporter released its buffer, or is gone.
    pub(super) fn exporter_lets_go(&mut self, id: ObjectId) {
        let Some(buffer) = self.buffers.get_mut(&id) else { return };
        buffer.exporter = None;
        self.drop_unused_buffer(id);
    }

    pub(super) fn drop_import(&mut self, id: ObjectId) {
        let Some(import) = self.imports.remove(&id) else { return };
        if let Some(device) = import.device {
            self.touch(device, |device| device.imports.remove(&id));
        }
        if let Some(buffer) = self.buffers.get_derived(&import.buffer) {
            buffer.imports.remove(&id);
        }
        self.drop_unused_buffer(import.buffer);
    }

    fn drop_unused_buffer(&mut self, id: ObjectId) {
        let Some(buffer) = self.buffers.get(&id) else { return };
        if buffer.exporter.is_none() && buffer.imports.is_empty() {
            let device = buffer.device;
            let unused = self.buffers.remove(&id).into_iter().flat_map(|buffer| buffer.planes);
            self.unused.extend(unused.map(|plane| plane.fd));
            self.tokens.drop_for(id);
            match device {
                Some(device) => {
                    self.touch(device, |device| device.buffers.remove(&id));
                }
                None => self.neutral_dirty = true,
            }
        }
    }
}

/// Whether a buffer whose dma-buf says `exporter` can be of a device with this driver. The kernel
/// names drivers and shared helpers, not devices (dma-buf's `exp_name`), so two cards of one driver
/// cannot be told apart; what is certainly wrong is refused.
fn device_made(driver: &str, exporter: &str) -> Result<(), String> {
    /// Drivers that export through operations of their own, and so never through DRM's helper.
    const OWN: [&str; 5] = ["virtio_gpu", "i915", "xe", "nvidia", "vmwgfx"];
    match exporter {
        "udmabuf" | "system" | "system_uncached" | "linux,cma" => {
            Err(format!("it was made by `{exporter}` and belongs to no GPU; use Allocate"))
        }
        "drm" if OWN.contains(&driver) => {
            Err(format!("its exporter is a driver that uses DRM's helper, not {driver}"))
        }
        "drm" => Ok(()),
        _ if exporter.replace('-', "_") == driver.replace('-', "_") => Ok(()),
        // A driver whose module exports under another name than the bus shows (amdgpu and the like
        // use the helper): refuse only what is known to be a driver of its own.
        _ if OWN.contains(&exporter) || exporter.starts_with("sim:") => {
            Err(format!("its exporter is {exporter}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_another_driver_is_told_apart() {
        assert!(device_made("amdgpu", "drm").is_ok());
        assert!(device_made("virtio_gpu", "virtio_gpu").is_ok());
        assert!(device_made("virtio_gpu", "drm").is_err());
        assert!(device_made("vkms", "virtio_gpu").is_err());
        assert!(device_made("vkms", "udmabuf").is_err());
        assert!(device_made("sim:a", "sim:b").is_err());
    }
}
