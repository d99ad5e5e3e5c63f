//! DRM nodes, their dumb buffers, and PRIME between them.

use std::os::fd::AsFd;
use std::path::Path;

use dmashare_uapi::drm_node::{self, DrmNode, DumbBuffer, NodeKind};
use dmashare_uapi::gem::GemHandle;
use dmashare_uapi::mapping::{Mapping, Prot};

use crate::common::{alone, dma_buf_id, nodes};

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn drm_nodes() {
    alone(|| {
        let nodes: Vec<_> = [nodes("card"), nodes("renderD")].concat();
        if nodes.is_empty() {
            return println!("skipped: no node in /dev/dri");
        }
        for path in nodes {
            let fd = drm_node::open(&path).unwrap();
            let node = DrmNode::of(fd.as_fd()).unwrap().expect("a DRM node");
            let name = path.file_name().unwrap().to_str().unwrap();
            let primary = name.starts_with("card");
            assert_eq!(node.kind, if primary { NodeKind::Primary } else { NodeKind::Render });
            assert_eq!(node.sysfs_path().unwrap().file_name().unwrap(), name);
            assert!(!drm_node::is_unplugged(fd.as_fd()).unwrap());
            // The first has it, where nobody had it before.
            let second = drm_node::open(&path).unwrap();
            assert!(!drm_node::is_master(second.as_fd()).unwrap());
            assert!(primary || !drm_node::is_master(fd.as_fd()).unwrap());
            drop(second);
            let driver = drm_node::driver_name(fd.as_fd()).unwrap();
            assert!(!driver.is_empty() && !driver.contains('\0'));
            println!("{}: {driver}", path.display());
        }
        let null = drm_node::open(Path::new("/dev/null")).unwrap_err();
        assert_eq!(null.raw_os_error(), Some(nix::libc::ENOTTY));
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn dumb_buffers_and_prime() {
    alone(|| {
        let cards = nodes("card");
        if cards.is_empty() {
            return println!("skipped: no card in /dev/dri");
        }
        for from in &cards {
            let card = drm_node::open(from).unwrap();
            // Not by its capability: vgem has dumb buffers, but no modesetting to ask it of.
            let buffer = match DumbBuffer::create(card.as_fd(), 64, 16, 32) {
                Ok(buffer) => buffer,
                Err(e) => {
                    println!("skipped: {} has no dumb buffers: {e}", from.display());
                    continue;
                }
            };
            assert!(buffer.pitch() >= 256 && buffer.size() >= 4096);
            let dma_buf = match buffer.export() {
                Ok(dma_buf) => dma_buf,
                Err(e) => {
                    println!("skipped: {} exports nothing: {e}", from.display());
                    continue;
                }
            };
            let id = dma_buf_id(&dma_buf);
            assert_eq!(id.size, buffer.size());
            assert_eq!(dma_buf_id(buffer.export().unwrap()), id);
            drop(buffer);
            assert_eq!(dma_buf_id(&dma_buf), id, "what was exported lives on");
            let map = Mapping::map(dma_buf.as_fd(), 0, 4096, Prot::ReadWrite).unwrap();
            map.copy_from(0, b"x").unwrap();
            for to in &cards {
                let other = drm_node::open(to).unwrap();
                match GemHandle::import(other.as_fd(), dma_buf.as_fd()) {
                    Ok(handle) => {
                        let back = handle.export().unwrap();
                        assert_eq!(dma_buf_id(back), id, "the same buffer");
                        println!("{} imports from {}", to.display(), from.display());
                    }
                    Err(e) => println!("{} from {}: {e}", to.display(), from.display()),
                }
            }
        }
    });
}
