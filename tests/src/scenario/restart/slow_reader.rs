//! A client that asks and does not read, while the service is killed: what waits for it in the service's own
//! queue comes all the same, in its order.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use dmashare_proto::codec::Incoming;
use dmashare_proto::message::{Reply, Request};

use crate::hostile::objects::import;
use crate::hostile::{Came, Raw};
use crate::process::eventually;
use crate::{BOUND, Buffer, World};

/// No client is disconnected for what waits here, and none of its buffers is too dear.
pub(in crate::scenario) const CONFIG: &str = "[limits]\nqueue_messages = 4096\n";
/// Bytes that wait in the service, besides those that are in the sockets.
const WAITING: u64 = 4096;
const QUEUED: &str = "queued bytes";

/// Answers with descriptors, and without.
pub(in crate::scenario) fn run(world: &mut World) -> Result<()> {
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let mut owner = Raw::hello(&world.socket(), "owner")?;
    let object = owner.export(&buffer)?.buffer;
    let token = owner.grant(object, u32::MAX)?;
    let mut slow = Raw::hello(&world.socket(), "does not read")?;
    let requests = [Request::ListDevices(()), import(token)];
    let (mut asked, mut last) = (BTreeSet::new(), 0);
    // Messages that the service has queued are on the user's account.
    while queued(world)? < WAITING {
        for request in requests.iter().cycle().take(20) {
            let (id, bytes) = slow.encoded(request, 0)?;
            slow.send_bytes(&bytes, &[])?;
            asked.insert(id);
            last = id;
        }
        let first = asked.first().copied().unwrap_or(0);
        ensure!(last - first < 20_000, "nothing waits");
    }
    // All that was asked is answered, and waits to be sent.
    let imports = u32::try_from(asked.len() / 2)?;
    let device = world.device(&world.egpu()?)?.id;
    eventually("every request is answered", BOUND, || {
        let counts = world.bus().devices()?.into_iter().find(|it| it.id == device);
        Ok(counts.is_some_and(|it| it.counts().1 == imports))
    })?;

    world.kill_broker()?;
    let mut before = 0;
    while !asked.is_empty() {
        match slow.came()? {
            Came::Message(Incoming::Reply(id, reply), fds) => {
                if !asked.remove(&id) {
                    // Once more, as it may come around a restart.
                    continue;
                }
                ensure!(id > before, "the answer to {id} came after that to {before}");
                before = id;
                match reply {
                    Reply::Devices(_) => {}
                    Reply::Imported(_) => ensure!(fds.len() == 1, "{} descriptors", fds.len()),
                    other => bail!("{other:?} in answer to {id}"),
                }
            }
            Came::Message(Incoming::Event(event), _) => bail!("{event:?}"),
            Came::End => bail!("disconnected, with {} answers missing", asked.len()),
        }
    }
    // It goes on as any other, and nothing of the queue is left.
    slow.devices()?;
    world.wait_ready()?;
    ensure!(queued(world)? == 0, "what was sent is still charged");
    drop((owner, slow));
    world.wait_counts(device, (0, 0, 0))
}

fn queued(world: &World) -> Result<u64> {
    let usage = world.bus().usage()?;
    let rows = usage.users.iter().flat_map(|user| &user.rows);
    Ok(rows.filter(|row| row.resource == QUEUED).map(|row| row.used).sum())
}
