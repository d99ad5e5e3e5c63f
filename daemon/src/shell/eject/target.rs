//! What an eject removes, and whether it may.

use std::path::Path;

use dmashare_uapi::{pci_slot, thunderbolt};

use crate::bus::NotDone;
use crate::devices::DeviceDesc;
use crate::eject::{Options, Target};

/// The slot of a device, as sysfs at a place has it; of a simulated one without.
pub(super) fn of(
    desc: &DeviceDesc,
    options: &Options,
    blocks_while_open: bool,
    sysfs: Option<&Path>,
) -> Result<Target, NotDone> {
    if desc.pci.is_empty() {
        let text = format!("{} is not on a PCI bus: there is nothing to remove it from", desc.name);
        return Err(NotDone::Unsupported(text));
    }
    let cards = desc.nodes.iter().filter(|node| {
        let name = node.devname.rsplit('/').next().unwrap_or_default();
        name.starts_with("card")
    });
    let mut target = Target {
        name: desc.name.clone(),
        cards: cards.map(|node| (node.devname.clone(), node.devpath.clone())).collect(),
        functions: vec![desc.pci.clone()],
        router: None,
        blocks_while_open,
    };
    let Some(sysfs) = sysfs else { return Ok(target) };
    let unseen = |error: std::io::Error| {
        NotDone::Failed(format!("the slot of {} cannot be looked at: {error}", desc.name))
    };
    if options.force < 2
        && let Some(why) = pci_slot::is_boot_gpu(sysfs, &desc.pci).map_err(unseen)?
    {
        let text = format!(
            "{} is the GPU that the machine started with ({why}): without it there may be no screen. \
             --force twice ejects it all the same",
            desc.name
        );
        return Err(NotDone::Refused(text));
    }
    let functions = pci_slot::functions(sysfs, &desc.pci).map_err(unseen)?;
    target.functions = functions.into_iter().map(|function| function.address).collect();
    if options.deauthorize {
        let router = thunderbolt::router(sysfs, &desc.pci).map_err(unseen)?;
        let name = router.filter(|router| router.can_deauthorize).map(|router| router.name);
        target.router = Some(name.ok_or_else(|| {
            let text = format!(
                "{} is behind no Thunderbolt device that the kernel can de-authorise; eject it without that",
                desc.name
            );
            NotDone::Unsupported(text)
        })?);
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::devices::{NodeDesc, NodeId};
    use crate::eject::NudgeWhen;

    const GPU: &str = "0000:03:00.0";

    fn options() -> Options {
        Options {
            force: 0,
            timeout_ns: 1,
            delay_ns: 0,
            dry_run: false,
            nudge: NudgeWhen::Auto,
            deauthorize: false,
        }
    }

    fn desc(pci: &str) -> DeviceDesc {
        let node = |name: &str, minor| NodeDesc {
            id: NodeId(226, minor),
            devname: format!("/dev/dri/{name}"),
            devpath: format!("/devices/pci0000:00/{GPU}/drm/{name}"),
        };
        DeviceDesc {
            name: GPU.to_owned(),
            pci: pci.to_owned(),
            parent_devpath: String::new(),
            syspath: Default::default(),
            birth: 0,
            driver: "amdgpu".to_owned(),
            nodes: vec![node("card1", 1), node("renderD129", 129)],
            removable: true,
            removable_reason: String::new(),
        }
    }

    fn sysfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let devices = dir.path().join("bus/pci/devices");
        fs::create_dir_all(&devices).unwrap();
        for (address, class) in [("0000:03:00.1", "0x040300"), (GPU, "0x030000")] {
            let folder = dir.path().join("devices/pci0000:00").join(address);
            fs::create_dir_all(&folder).unwrap();
            for (file, text) in [("class", class), ("vendor", "0x1002"), ("device", "0x73bf")] {
                fs::write(folder.join(file), text).unwrap();
            }
            symlink(folder, devices.join(address)).unwrap();
        }
        dir
    }

    #[test]
    fn the_card_nodes_and_the_slot_with_the_gpu_last() {
        let sysfs = sysfs();
        let target = of(&desc(GPU), &options(), false, Some(sysfs.path())).unwrap();
        assert_eq!(target.functions, ["0000:03:00.1", GPU]);
        assert_eq!(target.cards.len(), 1, "a render node is nobody's screen");
        assert_eq!(target.cards[0].0, "/dev/dri/card1");
    }

    #[test]
    fn the_gpu_that_the_machine_started_with_takes_force_twice() {
        let sysfs = sysfs();
        fs::write(sysfs.path().join("bus/pci/devices").join(GPU).join("boot_vga"), "1\n").unwrap();
        for force in [0, 1] {
            let options = Options { force, ..options() };
            let Err(NotDone::Refused(text)) = of(&desc(GPU), &options, false, Some(sysfs.path()))
            else {
                panic!("force {force}")
            };
            assert!(text.contains("boot_vga") && text.contains("--force twice"), "{text}");
        }
        let twice = Options { force: 2, ..options() };
        assert!(of(&desc(GPU), &twice, false, Some(sysfs.path())).is_ok());
    }

    #[test]
    fn what_is_not_there_is_said() {
        let sysfs = sysfs();
        let no_pci = of(&desc(""), &options(), false, Some(sysfs.path()));
        assert!(matches!(no_pci, Err(NotDone::Unsupported(text)) if text.contains("PCI bus")));
        let tunnel = Options { deauthorize: true, ..options() };
        let no_tunnel = of(&desc(GPU), &tunnel, false, Some(sysfs.path()));
        assert!(
            matches!(no_tunnel, Err(NotDone::Unsupported(text)) if text.contains("Thunderbolt"))
        );
        fs::remove_file(sysfs.path().join("bus/pci/devices").join(GPU)).unwrap();
        let gone = of(&desc(GPU), &options(), false, Some(sysfs.path()));
        assert!(matches!(gone, Err(NotDone::Failed(text)) if text.contains("removed")));
    }
}
