//! The device through which the broker keeps its timelines goes, and the eGPU stays.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use dmashare::{Cause, Direction, ErrorCode, Policy};

use super::{Line, end, failed, is_ok};
use crate::{Role, Source, Unplug, World};

pub(in crate::scenario) fn run(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Acquire)?;
    let release = Line::new(world, Direction::Release)?;
    let mut source = Source::endless(world.is_simulated())?;
    line.made.promise(9)?;
    line.submit(1, &source)?;
    release.made.promise(1)?;
    let stay = world.card(Role::Stay)?;
    let keeper = world.device(&stay)?.id;

    world.unplug_card(Role::Stay)?;
    world.wait_gone(keeper)?;
    source.signal()?;
    is_ok(end(&line.imported, 1)?)?;
    // New points go to the same syncobj, now by way of the eGPU itself.
    let mut source = Source::endless(world.is_simulated())?;
    line.submit(2, &source)?;
    source.signal()?;
    is_ok(end(&line.imported, 2)?)?;
    release.imported.submit_done(1)?;
    is_ok(end(&release.made, 1)?)?;
    let fresh = Line::new(world, Direction::Acquire)?;
    fresh.made.submit_done(1)?;
    is_ok(end(&fresh.imported, 1)?)?;

    // Now the last device with timelines goes.
    let source = Source::endless(world.is_simulated())?;
    line.submit(3, &source)?;
    world.unplug(Unplug::Remove)?;
    failed(end(&line.imported, 3)?, Cause::Unplugged)?;
    failed(end(&line.imported, 9)?, Cause::Unplugged)?;
    super::hangs_up(&line.imported)?;
    if !world.is_simulated() {
        let igpu = world.igpu()?.open()?;
        let refused =
            line.maker.create_timeline(igpu.as_fd(), Policy::Auto, Direction::Acquire).err();
        let code = refused.as_ref().and_then(dmashare::Error::code);
        ensure!(
            code == Some(ErrorCode::UNSUPPORTED),
            "without a device with timelines: {refused:?}"
        );
    }

    // And both are back.
    world.bring_back_card(Role::Stay)?;
    world.replug()?;
    let again = Line::new(world, Direction::Acquire)?;
    again.made.promise(1)?;
    again.made.submit_done(1)?;
    is_ok(end(&again.imported, 1)?)
}
