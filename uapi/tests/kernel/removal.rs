//! A real card's removal.

use std::os::fd::AsFd;
use std::path::Path;

use dmashare_uapi::drm_node::{self, DrmNode, DumbBuffer};
use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::uevent::KernelUevents;

use crate::common::{alone, dma_buf_id};
use crate::uevents::next_event;

/// The card goes while everything of it is held.
#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_card_is_removed() {
    alone(|| {
        let Some(path) = std::env::var_os("DMASHARE_EXPENDABLE_CARD") else {
            return println!("skipped: DMASHARE_EXPENDABLE_CARD names no card to remove");
        };
        let card = drm_node::open(Path::new(&path)).unwrap();
        let node = DrmNode::of(card.as_fd()).unwrap().unwrap();
        let device = node.sysfs_path().unwrap();
        let pci = device.ancestors().find(|p| p.join("remove").exists()).expect("a PCI device");
        let buffer = DumbBuffer::create(card.as_fd(), 64, 64, 32).unwrap();
        let dma_buf = buffer.export().unwrap();
        let id = dma_buf_id(&dma_buf);
        let map = Mapping::map(dma_buf.as_fd(), 0, 4096, Prot::ReadWrite).unwrap();
        map.copy_from(0, b"old").unwrap();

        let uevents = KernelUevents::open().unwrap();
        assert!(!drm_node::is_unplugged(card.as_fd()).unwrap());
        std::thread::scope(|scope| {
            let remove = scope.spawn(|| std::fs::write(pci.join("remove"), "1"));
            let minor = next_event(&uevents, |e| {
                e.action == "remove" && e.major == Some(226) && e.minor == Some(node.minor)
            });
            let minor = minor.expect("no event of the card");
            assert!(minor.contains("synth_uuid: None") && minor.contains("drm_minor"), "{minor}");
            assert!(drm_node::is_unplugged(card.as_fd()).unwrap(), "at the first event");
            remove.join().unwrap().unwrap();
        });
        assert!(node.sysfs_path().is_err());
        assert_eq!(DrmNode::of(card.as_fd()).unwrap(), Some(node), "the descriptor is what it was");
        let gone = drm_node::driver_name(card.as_fd()).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ENODEV));
        assert_eq!(dma_buf_id(&dma_buf), id);
        let mut text = [0; 3];
        map.copy_to(0, &mut text).unwrap();
        assert_eq!(&text, b"old", "mappings go on");
        map.revoke().unwrap();
        map.copy_to(0, &mut text).unwrap();
        assert_eq!(text, [0; 3]);
    });
}
