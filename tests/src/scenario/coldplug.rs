//! Scenario 1: Both GPUs are on D-Bus, as sysfs has them.

use anyhow::{Result, ensure};

use crate::scenario::figures::show;
use crate::{Role, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    // Found at the start, not when they came.
    world.restart_broker()?;
    for (role, removable) in [(Role::Egpu, true), (Role::Igpu, false), (Role::Stay, false)] {
        let card = world.card(role)?;
        let device = world.device(&card)?;
        ensure!(device.driver == card.driver, "{card:?} has the driver {:?}", device.driver);
        ensure!(device.pci == card.pci, "{card:?} has the PCI address {:?}", device.pci);
        ensure!(device.removable == removable, "{card:?}: removable is {}", device.removable);
        ensure!(device.state == "present", "{card:?} is {}", device.state);
        ensure!(device.counts() == (0, 0, 0), "{card:?} has {:?}", device.counts());
        show(format_args!("{role:?}: {} {} {:?}", device.driver, device.name, device.nodes));
    }
    Ok(())
}
