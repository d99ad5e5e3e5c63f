//! A node of another device than the buffer's.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use dmashare::{Layout, Plane};
use dmashare_proto::ErrorCode;
use dmashare_uapi::{dma_heap, udmabuf};

use crate::hostile::objects::export;
use crate::hostile::{Bystanders, Raw, expect};
use crate::{Buffer, Role, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let mut raw = Raw::hello(&world.socket(), "other-device")?;
        let virtio = Buffer::make(&world.egpu()?, 16, 16)?;
        let vkms = Buffer::make(&world.igpu()?, 16, 16)?;
        let (egpu, igpu) = (world.device(&world.egpu()?)?, world.device(&world.igpu()?)?);
        for (what, node, device, buffer, words) in [
            ("vkms with virtio's node", &virtio, &egpu, vkms.dma_buf.as_fd(), "DRM's helper"),
            ("virtio with vkms's node", &vkms, &igpu, virtio.dma_buf.as_fd(), "virtio_gpu"),
        ] {
            let fds = [node.node.as_fd(), buffer];
            let error = raw.refused(&export(&node.layout), &fds)?;
            expect(&error, ErrorCode::WRONG_DEVICE, &["plane 0", &device.name, words])
                .and_then(|()| about(error.object, device.id.0))
                .context(what)?;
        }
        let neutral = Layout {
            width: 16,
            height: 16,
            planes: vec![Plane { offset: 0, stride: 64 }],
            ..virtio.layout.clone()
        };
        let heap = dma_heap::alloc(dma_heap::SYSTEM, 4096)?;
        for (what, fd) in [("udmabuf", udmabuf::create(4096)?), ("system", heap)] {
            for node in [&virtio, &vkms] {
                let fds = [node.node.as_fd(), fd.as_fd()];
                let error = raw.refused(&export(&neutral), &fds)?;
                expect(&error, ErrorCode::WRONG_DEVICE, &[what, "belongs to no GPU"])
                    .context(what)?;
            }
        }
        let exported = raw.export(&virtio)?;
        raw.release(exported.buffer)
    })?;
    pair.undisturbed(world)
}

fn about(object: u64, device: u64) -> Result<()> {
    anyhow::ensure!(object == device, "it is about {object}, not about device {device}");
    Ok(())
}
