//! More connections than one user may have.

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;

use crate::hostile::{Bystanders, Raw, as_user, expect, new_files_limit};
use crate::scenario::figures::show;
use crate::{BOUND, Role, World};

pub(super) const LIMIT: &str = "[limits]\nclients_per_uid = 24\n";
const MOST: usize = 24;
const ATTEMPTS: usize = 300;
const FLOODER: u32 = 54_321;
const SOMEBODY: u32 = 54_322;

pub(super) fn run(world: &mut World) -> Result<()> {
    new_files_limit()?;
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let socket = world.socket();
        let flood = as_user(FLOODER, || {
            let mut kept = (0..MOST).map(|_| Raw::connect(&socket)).collect::<Result<Vec<_>>>()?;
            for _ in 0..ATTEMPTS {
                let mut raw = Raw::connect(&socket)?;
                let error = raw.end()?.context("refused without a word")?;
                expect(&error, ErrorCode::OVER_QUOTA, &["limits.clients_per_uid = 24"])?;
            }
            // One that was there is served still.
            let first = kept.first_mut().context("the first")?;
            first.request(&Raw::hello_named("first"), &[])?;
            first.devices()?;
            Ok(kept)
        })?;
        show(format_args!("{ATTEMPTS} connections refused"));
        as_user(SOMEBODY, || Raw::hello(&socket, "somebody")?.devices()).context("another user")?;
        pair.exchange(3)?;
        let held = flood.len();
        drop(flood);
        world.bus().until("the flood is over", BOUND, |bus| {
            Ok((bus.clients()?.len() == 2).then_some(()))
        })?;
        ensure!(held == MOST, "{held} connections were held");
        as_user(FLOODER, || Raw::hello(&socket, "flooder")?.devices())
            .context("the same user, afterwards")?;
        Ok(())
    })?;
    pair.undisturbed(world)
}
