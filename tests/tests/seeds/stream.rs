//! What clients do, for the target `stream` (its form is in `fuzz/fuzz_targets/stream/script.rs`): requests
//! of PROTOCOL.md, with small numbers in the place of ids, which stand for what was answered before.

use dmashare_proto::codec::encode;
use dmashare_proto::message::{
    Access, Allocate, AttachFence, CreateTimeline, Declare, Direction, Export, Grant, Grantee,
    Import, Importer, Inhibit, InhibitMode, Layout, LossPolicy, Plane, PointAt, Policy, Request,
    ShareFence, SubmitPoint, Terms,
};
use dmashare_proto::{DeviceId, ObjectId, Token};

use crate::Seeds;
use crate::codec::examples;

/// Kinds of descriptors, as in `fuzz/fuzz_targets/stream/files.rs`.
const EGPU: u8 = 0;
const IGPU: u8 = 1;
const BUFFER: u8 = 2;
const FENCE: u8 = 4;
const ENDED: u8 = 5;

const UNPLUG: [u8; 1] = [6];

fn sends(who: u8, kinds: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut step = vec![who << 3, u8::try_from(kinds.len()).unwrap()];
    step.extend(kinds);
    step.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
    step.extend(bytes);
    step
}

fn asks(who: u8, kinds: &[u8], request: Request) -> Vec<u8> {
    sends(who, kinds, &encode(&request, 1, kinds.len()).unwrap())
}

fn script(steps: &[Vec<u8>]) -> Vec<u8> {
    [&[0], &steps.concat()[..]].concat()
}

fn export(node: u8) -> Vec<u8> {
    let planes = vec![Plane { offset: 0, stride: 2560 }];
    let fourcc = u32::from_le_bytes(*b"XR24");
    let layout = Layout { width: 640, height: 360, fourcc, modifier: 0, planes };
    asks(0, &[node, BUFFER], Request::Export(Export { layout, grant: None }))
}

fn grant(object: u64) -> Vec<u8> {
    let (object, to) = (ObjectId(object), Grantee::Anyone);
    asks(0, &[], Request::Grant(Grant { object, terms: Terms { to, uses: 2, ttl_ms: 30_000 } }))
}

fn token(n: u8) -> Token {
    Token([n; 16])
}

fn import(n: u8) -> Vec<u8> {
    asks(1, &[], Request::Import(Import { token: token(n), by: Importer::Cpu }))
}

fn share(node: u8, source: u8) -> Vec<u8> {
    let options = ShareFence { policy: Policy::Auto, deadline_ms: 0, grant: None };
    asks(0, &[node, source], Request::ShareFence(options))
}

fn at(timeline: u64, point: u64) -> PointAt {
    PointAt { timeline: ObjectId(timeline), point }
}

fn timeline(of: u64) -> Vec<Vec<u8>> {
    let options = CreateTimeline { policy: Policy::Auto, direction: Direction::Acquire };
    let submit = |point| Request::SubmitPoint(SubmitPoint { to: at(of, point), deadline_ms: 0 });
    vec![
        asks(0, &[EGPU], Request::CreateTimeline(options)),
        asks(0, &[], Request::PromisePoint(at(of, 5))),
        asks(0, &[EGPU, FENCE], submit(2)),
        asks(0, &[], submit(3)),
        asks(0, &[], Request::WaitPoint(at(of, 4))),
        asks(0, &[], Request::QueryPoint(at(of, 2))),
    ]
}

fn everything() -> Vec<Vec<u8>> {
    let allocate = Allocate { width: 64, height: 64, fourcc: u32::from_le_bytes(*b"XR24") };
    let inhibit = Inhibit { device: None, mode: InhibitMode::Delay, why: "a frame".to_owned() };
    let declare = Declare { on_loss: LossPolicy::Relaunch, survives: true };
    let attach = AttachFence { fence: ObjectId(1), buffer: ObjectId(0), access: Access::Write };
    let mut steps = vec![
        export(EGPU),
        share(EGPU, FENCE),
        grant(0),
        grant(1),
        import(0),
        asks(1, &[], Request::ImportFence(token(1))),
        asks(0, &[], Request::AttachFence(attach)),
        asks(0, &[], Request::QueryFence(ObjectId(1))),
        asks(0, &[], Request::Allocate(allocate)),
        asks(1, &[], Request::Inhibit(inhibit)),
        asks(1, &[], Request::Declare(declare)),
    ];
    steps.extend(timeline(3));
    steps.extend([
        // The first of those that were passed.
        vec![7, 0],
        UNPLUG.to_vec(),
        asks(1, &[], Request::Acknowledge(DeviceId(0))),
        asks(0, &[], Request::Release(ObjectId(0))),
    ]);
    steps
}

pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    for (name, bytes) in examples().into_iter().filter(|(_, bytes)| bytes[1] < 0x80) {
        let fds = [EGPU, BUFFER, BUFFER, BUFFER];
        seeds.insert(name, script(&[sends(0, &fds[..usize::from(bytes[2]).min(4)], &bytes)]));
    }
    let buffer = [export(EGPU), grant(0), import(0), asks(1, &[], Request::Release(ObjectId(1)))];
    let again = [export(IGPU), grant(0), vec![5], import(0), vec![13]];
    let pulled =
        [export(EGPU), grant(0), import(0), share(EGPU, FENCE), UNPLUG.to_vec(), import(0)];
    let fences = [share(EGPU, FENCE), share(IGPU, ENDED), share(IGPU, FENCE), vec![7, 128]];
    seeds.extend([
        ("everything".to_owned(), script(&everything())),
        ("buffer-shared".to_owned(), script(&buffer)),
        ("exporter-again".to_owned(), script(&again)),
        ("pulled".to_owned(), script(&pulled)),
        ("fences".to_owned(), script(&fences)),
        ("timeline".to_owned(), script(&timeline(0))),
    ]);
    // Nobody greets here.
    seeds.insert("no-hello".to_owned(), [&[3], &export(EGPU)[..]].concat());
    seeds
}
