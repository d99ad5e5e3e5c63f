//! A request at which the service panics: a fault of its own, of which its client alone has the harm.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_uapi::sim;

use crate::hostile::objects::export;
use crate::hostile::{Bystanders, Raw, expect};
use crate::{Buffer, Role, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    let life = world.broker()?.0;
    pair.meanwhile(|| {
        let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
        let faulty = sim::buffer(sim::FAULTY)?;
        for _ in 0..3 {
            let mut raw = Raw::hello(&world.socket(), "faulty")?;
            // So that there is something to be taken back.
            raw.export(&buffer)?;
            let (_, bytes) = raw.encoded(&export(&buffer.layout), 2)?;
            raw.send_bytes(&bytes, &[buffer.node.as_fd(), faulty.as_fd()])?;
            let error = raw.end()?.context("it was told nothing")?;
            expect(&error, ErrorCode::INTERNAL, &["fault of the service's", "closed"])?;
        }
        Ok(())
    })?;
    ensure!(world.broker()?.0 == life, "the service is another one");
    pair.undisturbed(world)
}
