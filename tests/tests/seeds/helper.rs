//! What the broker asks its helpers. Before each is the byte that says which helper.

use dmashare_proto::holders::{Look, LookFor, Node, Request};
use dmashare_proto::keeper::{Batch, Change, Key, ToKeeper, encode};
use dmashare_proto::{kill, sysfs};
use serde::Serialize;

use crate::Seeds;
use crate::codec::batch;

fn line<T: Serialize>(whose: u8, message: &T) -> Vec<u8> {
    let mut bytes = vec![whose];
    serde_json::to_writer(&mut bytes, message).unwrap();
    bytes
}

/// Datagrams to the keeper, each with its count of descriptors and its length before it.
fn conversation(datagrams: &[(u8, ToKeeper)]) -> Vec<u8> {
    let mut bytes = vec![3];
    for (fds, message) in datagrams {
        let datagram = encode(message).unwrap();
        bytes.push(*fds);
        bytes.extend(u16::try_from(datagram.len()).unwrap().to_le_bytes());
        bytes.extend(datagram);
    }
    bytes
}

pub fn seeds() -> Seeds {
    let node = Node { path: "/dev/dri/card1".to_owned(), major: 226, minor: 1 };
    let device = LookFor {
        pci: "0000:03:00.0".to_owned(),
        driver: "amdgpu".to_owned(),
        nodes: vec![node],
        buffers: vec![31],
        ..LookFor::default()
    };
    let look = Request::Look(Look { device, others: vec![LookFor::default()] });
    let keeps = Request::Keeps { pid: 42, inodes: vec![31, 32] };
    let end = kill::Request { pid: 42, start: 4711, how: kill::How::Term };
    let devpath = |node: &str| format!("/devices/pci0/0000:03:00.0/drm/{node}");
    let nudge = sysfs::Request::Nudge {
        nodes: vec![devpath("card1"), devpath("renderD128")],
        action: sysfs::Nudge::Remove,
    };
    let remove = sysfs::Request::Remove { pci: "0000:03:00.0".to_owned() };
    let deauthorize = sysfs::Request::Deauthorize { router: "0-1".to_owned() };
    let stuck = sysfs::Answer::Stuck { ms: 9, stack: vec!["schedule".to_owned()], pid: 7 };
    let failed = kill::Answer::Failed { why: "process 42 has ended".to_owned() };
    let first_half = Batch { more: true, ..batch() };
    let in_place = (Key(0x80, 18, 1), Change::Put { bytes: vec![9], fds: Some(0) });
    let last = Batch { entries: vec![in_place], ..Batch::default() };
    let keeper = [
        (3, ToKeeper::Batch(first_half)),
        (0, ToKeeper::Batch(last)),
        (0, ToKeeper::Give(1)),
        (3, ToKeeper::Batch(batch())),
        (0, ToKeeper::Now(vec![Key(0x80, 18, 1)])),
        (0, ToKeeper::Give(2)),
        (0, ToKeeper::Forget(3)),
        (0, ToKeeper::Give(4)),
    ];
    let seeds = [
        ("look", line(0, &look)),
        ("keeps", line(0, &keeps)),
        ("kill", line(1, &end)),
        ("nudge", line(2, &nudge)),
        ("remove", line(2, &remove)),
        ("rescan", line(2, &sysfs::Request::Rescan)),
        ("deauthorize", line(2, &deauthorize)),
        ("keeper", conversation(&keeper)),
        ("stuck", line(4, &stuck)),
        ("not-killed", line(5, &failed)),
    ];
    seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}
