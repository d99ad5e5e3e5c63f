//! What an eject removes, and whether it may.

use std::path::Path;

use dmashare_uapi::{pci_slot, thunderbolt};

use super::Ejects;
use crate::bus::NotDone;
use crate::devices::DeviceDesc;
use crate::eject::{Options, Target};

const SYSFS: &str = "/sys";

/// The slot of a device.
pub(super) fn of(desc: &DeviceDesc, options: &Options, ejects: &Ejects) -> Result<Target, NotDone> {
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
        blocks_while_open: ejects.blocks_while_open(&desc.driver),
    };
    if ejects.helpers.simulate.is_some() {
        return Ok(target);
    }
    let sysfs = Path::new(SYSFS);
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
