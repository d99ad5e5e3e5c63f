//! What goes on with a device, as who watches is told.

use anyhow::{Context, Result, ensure};
use dmashare::DeviceId;
use dmashare_proto::activity::Activity;

use super::local::{Local, ends_well};
use crate::{Source, World};

fn of(world: &World, device: DeviceId) -> Result<Activity> {
    let activity = world.bus().activity()?.into_iter().find(|it| it.device == device.0);
    activity.context("nothing is told of the device")
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let local = Local::new(world)?;
    let before = of(world, local.device)?;
    ensure!(before.ages.iter().sum::<u32>() == 0 && before.oldest_ns == 0, "{before:?}");
    let mut sources =
        [Source::endless(world.is_simulated())?, Source::endless(world.is_simulated())?];
    let [first, second] = &sources;
    let fences = [local.guard(first.fd())?, local.guard(second.fd())?];
    let one = of(world, local.device)?;
    ensure!(one.fences == before.fences + 2 && one.ages.iter().sum::<u32>() == 2, "{one:?}");
    let later = of(world, local.device)?;
    ensure!(later.oldest_ns > one.oldest_ns && one.oldest_ns > 0, "{one:?}, then {later:?}");

    sources[0].signal()?;
    ends_well(&fences[0])?;
    let left = of(world, local.device)?;
    ensure!(left.fences == one.fences && left.ages.iter().sum::<u32>() == 1, "{left:?}");
    sources[1].signal()?;
    ends_well(&fences[1])
}
