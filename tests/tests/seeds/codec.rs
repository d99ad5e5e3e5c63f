//! Messages: those of PROTOCOL.md, which `proto/tests/examples.rs` holds against the codec, the keeper's,
//! and what is JSON. Before each is the byte that says as what the target reads it.

use std::fs;

use dmashare_proto::DeviceId;
use dmashare_proto::activity::Activity;
use dmashare_proto::codec::decode_header;
use dmashare_proto::holders::{Held, Holder, Holders, Kept, What};
use dmashare_proto::keeper::{Batch, Change, Key, ToKeeper, encode};
use dmashare_proto::message::{Allocate, Cause};
use dmashare_proto::report::{Mark, Step, UnplugReport};
use dmashare_proto::usage::{Client, Row, Usage, User};

use crate::{Seeds, root};

/// The datagrams of PROTOCOL.md by their names.
pub fn examples() -> Seeds {
    let text = fs::read_to_string(root().join("proto/PROTOCOL.md")).unwrap();
    let blocks = text.split("\n```hex ").skip(1);
    let block = |block: &str| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (hex, _) = rest.split_once("```").unwrap();
        let bytes = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap());
        (name.to_owned(), bytes.collect())
    };
    blocks.map(block).collect()
}

fn after(what: u8, bytes: &[u8]) -> Vec<u8> {
    [&[what], bytes].concat()
}

pub fn batch() -> Batch {
    let put = |fds| Change::Put { bytes: vec![1, 2, 3], fds };
    let entries = vec![
        (Key(4, 17, 0), put(Some(2))),
        (Key(0x80, 18, 1), put(Some(1))),
        (Key(4, 17, 0), put(None)),
        (Key(5, 9, 0), Change::Drop),
    ];
    Batch { entries, ..Batch::default() }
}

pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    for (name, bytes) in examples() {
        let is_request = decode_header(&bytes).unwrap().kind < 0x8000;
        seeds.insert(name, after(if is_request { 0 } else { 1 }, &bytes));
    }
    let to_keeper = [
        ("keeper-batch", ToKeeper::Batch(batch())),
        ("keeper-now", ToKeeper::Now(vec![Key(0x80, 18, 1)])),
        ("keeper-give", ToKeeper::Give(7)),
        ("keeper-forget", ToKeeper::Forget(u64::MAX)),
    ];
    for (name, message) in to_keeper {
        seeds.insert(name.to_owned(), after(2, &encode(&message).unwrap()));
    }
    let given = Batch { pid: 4711, to: 7, more: true, ..batch() };
    seeds.insert("keeper-gives".to_owned(), after(3, &encode(&given).unwrap()));
    let wanted = Allocate { width: 1920, height: 1080, fourcc: u32::from_le_bytes(*b"NV12") };
    seeds.insert("plan".to_owned(), after(9, &encode(&wanted).unwrap()));
    for (name, what, text) in documents() {
        seeds.insert(name.to_owned(), after(what, text.as_bytes()));
    }
    seeds
}

fn documents() -> [(&'static str, u8, String); 5] {
    let text = |it: serde_json::Result<String>| it.unwrap();
    let held = Held {
        what: What::DmaBuf { inode: 31, size: 4096, exporter: "amdgpu".to_owned() },
        fds: 1,
        active: "it is mapped".to_owned(),
        ..Held::default()
    };
    let holder =
        Holder { pid: 42, command: "game".to_owned(), holds: vec![held], ..Holder::default() };
    let holders = Holders { processes: vec![holder], ..Holders::default() };
    let row = Row {
        resource: "objects".to_owned(),
        used: 3,
        most: Some(16_384),
        limit: Some("limits.objects_per_client".to_owned()),
    };
    let client = Client { id: 6, pid: 42, name: "game".to_owned(), rows: vec![row.clone()] };
    let user = User { uid: 1000, rows: vec![row.clone()], clients: vec![client] };
    let usage = Usage { all: vec![row], users: vec![user] };
    let kept = Kept { holds: vec!["fd 7 (dma-buf inode 31)".to_owned()] };
    [
        ("report", 4, text(serde_json::to_string(&report()))),
        ("holders", 5, text(serde_json::to_string(&holders))),
        ("kept", 6, text(serde_json::to_string(&kept))),
        ("usage", 7, text(serde_json::to_string(&usage))),
        ("activity", 8, text(serde_json::to_string(&Activity::default()))),
    ]
}

fn report() -> UnplugReport {
    UnplugReport {
        device: DeviceId(2),
        name: "0000:01:00.0".to_owned(),
        driver: "amdgpu".to_owned(),
        cause: Cause::Unplugged,
        wall_clock_s: 7,
        marks: vec![Mark { step: Step::GateClosed, at_ns: 9 }],
        guards: 1,
        passed: 0,
        promises: 0,
        buffers: 3,
        imports: 3,
        told: 2,
        awaited: 1,
        implicit: Vec::new(),
        overdue: Vec::new(),
        rehearsed_for: None,
    }
}
