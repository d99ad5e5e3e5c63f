//! The examples in PROTOCOL.md are what the codec produces, and its tables have every message.
//!
//! `DMASHARE_BLESS=1 cargo test -p dmashare-proto --test examples` writes the examples' bytes anew.

use std::fmt::Write as _;

use dmashare_proto::codec::{self, Incoming};
use dmashare_proto::message::{
    Access, Allocate, Allocated, AttachFence, Cause, CreateTimeline, Declare, DeviceAt, DeviceInfo,
    DeviceLost, DeviceWedged, Direction, Event, Export, Exported, FenceImported, FenceShared,
    FenceState, Grant, Grantee, GuardKind, Hello, Import, Imported, Importer, Inhibit, InhibitMode,
    Layout, LossPolicy, Plane, PointAt, PointState, Policy, RemovalRequested, Reply, Request,
    ShareFence, SubmitPoint, Terms, TimelineInfo, Welcome,
};
use dmashare_proto::state_page::{DeviceState, Word};
use dmashare_proto::{DeviceId, ErrorCode, ObjectId, Token, WireError, limits, state_page};

const TEXT: &str = include_str!("../PROTOCOL.md");

struct Example {
    name: &'static str,
    bytes: Vec<u8>,
}

fn request(name: &'static str, id: u64, fds: usize, request: Request) -> Example {
    let bytes = codec::encode(&request, id, fds).unwrap();
    let (header, back) = codec::decode_request(&bytes, fds).unwrap();
    assert_eq!((header.id, back), (id, request), "{name}");
    Example { name, bytes }
}

fn reply(name: &'static str, id: u64, fds: usize, reply: Reply) -> Example {
    let bytes = codec::encode(&reply, id, fds).unwrap();
    assert_eq!(codec::decode_incoming(&bytes, fds).unwrap(), Incoming::Reply(id, reply), "{name}");
    Example { name, bytes }
}

fn event(name: &'static str, event: Event) -> Example {
    let bytes = codec::encode(&event, 0, 0).unwrap();
    assert_eq!(codec::decode_incoming(&bytes, 0).unwrap(), Incoming::Event(event), "{name}");
    Example { name, bytes }
}

fn token() -> Token {
    Token(std::array::from_fn(|i| u8::try_from(i * 17).unwrap()))
}

fn at() -> DeviceAt {
    DeviceAt { device: DeviceId(3), slot: 1, word: Word::new(2, DeviceState::Present) }
}

fn for_anyone() -> Terms {
    Terms { to: Grantee::Anyone, uses: 1, ttl_ms: 30_000 }
}

/// NV12, 1920 by 1080: two planes in one dma-buf, so the second has an offset.
fn layout() -> Layout {
    Layout {
        width: 1920,
        height: 1080,
        fourcc: u32::from_le_bytes(*b"NV12"),
        modifier: 0x0100_0000_0000_0002,
        planes: vec![Plane { offset: 0, stride: 1920 }, Plane { offset: 2_088_960, stride: 1920 }],
    }
}

/// As the broker makes it: rows of a multiple of 256 bytes.
fn neutral_layout() -> Layout {
    Layout {
        width: 1920,
        height: 1080,
        fourcc: u32::from_le_bytes(*b"XR24"),
        modifier: 0,
        planes: vec![Plane { offset: 0, stride: 7680 }],
    }
}

fn device() -> DeviceInfo {
    DeviceInfo {
        at: at(),
        state: DeviceState::Present,
        driver: "amdgpu".into(),
        pci: "0000:06:00.0".into(),
        nodes: vec!["/dev/dri/card1".into(), "/dev/dri/renderD129".into()],
        removable: true,
    }
}

fn point(point: u64) -> PointAt {
    PointAt { timeline: ObjectId(40), point }
}

fn requests() -> Vec<Example> {
    vec![
        request(
            "hello",
            1,
            0,
            Request::Hello(Hello {
                version_min: 1,
                version_max: 1,
                features: 0,
                name: "producer".into(),
            }),
        ),
        request("list-devices", 2, 0, Request::ListDevices(())),
        request("export", 3, 3, Request::Export(Export { layout: layout(), grant: None })),
        request(
            "export-granted",
            4,
            3,
            Request::Export(Export { layout: layout(), grant: Some(for_anyone()) }),
        ),
        request(
            "grant-anyone",
            4,
            0,
            Request::Grant(Grant { object: ObjectId(17), terms: for_anyone() }),
        ),
        request(
            "grant-uid",
            5,
            0,
            Request::Grant(Grant {
                object: ObjectId(17),
                terms: Terms { to: Grantee::Uid(1000), uses: 2, ttl_ms: limits::MAX_TOKEN_TTL_MS },
            }),
        ),
        request("import-cpu", 6, 0, Request::Import(Import { token: token(), by: Importer::Cpu })),
        request(
            "import-device",
            7,
            1,
            Request::Import(Import { token: token(), by: Importer::Device }),
        ),
        request("release", 8, 0, Request::Release(ObjectId(17))),
        request(
            "share-fence",
            9,
            2,
            Request::ShareFence(ShareFence { policy: Policy::Auto, deadline_ms: 0, grant: None }),
        ),
        request(
            "share-fence-granted",
            9,
            2,
            Request::ShareFence(ShareFence {
                policy: Policy::Guard,
                deadline_ms: 2_000,
                grant: Some(for_anyone()),
            }),
        ),
        request("import-fence", 10, 0, Request::ImportFence(token())),
        request("query-fence", 11, 0, Request::QueryFence(ObjectId(300))),
        request("acknowledge", u64::MAX, 0, Request::Acknowledge(DeviceId(3))),
    ]
}

fn timeline_requests() -> Vec<Example> {
    vec![
        request(
            "create-timeline",
            12,
            1,
            Request::CreateTimeline(CreateTimeline {
                policy: Policy::Auto,
                direction: Direction::Acquire,
            }),
        ),
        request("promise-point", 13, 0, Request::PromisePoint(point(6))),
        request(
            "submit-point",
            14,
            2,
            Request::SubmitPoint(SubmitPoint { to: point(5), deadline_ms: 500 }),
        ),
        request(
            "submit-point-done",
            15,
            0,
            Request::SubmitPoint(SubmitPoint { to: point(limits::MAX_POINT), deadline_ms: 0 }),
        ),
        request("import-timeline", 16, 0, Request::ImportTimeline(token())),
        request("query-point", 17, 0, Request::QueryPoint(point(5))),
        request("wait-point", 18, 0, Request::WaitPoint(point(6))),
        request(
            "attach-fence",
            19,
            0,
            Request::AttachFence(AttachFence {
                fence: ObjectId(300),
                buffer: ObjectId(18),
                access: Access::Write,
            }),
        ),
    ]
}

fn client_requests() -> Vec<Example> {
    let inhibit =
        |device, mode, why: &str| Request::Inhibit(Inhibit { device, mode, why: why.to_owned() });
    vec![
        request(
            "allocate",
            20,
            0,
            Request::Allocate(Allocate {
                width: 1920,
                height: 1080,
                fourcc: u32::from_le_bytes(*b"XR24"),
            }),
        ),
        request(
            "declare",
            21,
            0,
            Request::Declare(Declare { on_loss: LossPolicy::Relaunch, survives: true }),
        ),
        request("inhibit", 22, 0, inhibit(Some(DeviceId(3)), InhibitMode::Block, "a recording")),
        request("inhibit-all", 23, 0, inhibit(None, InhibitMode::Delay, "saving")),
    ]
}

fn replies() -> Vec<Example> {
    vec![
        reply(
            "welcome",
            1,
            1,
            Reply::Welcome(Welcome {
                version: 1,
                features: 0,
                instance: *b"\x0f\x1e\x2d\x3c\x4b\x5a\x69\x78\x87\x96\xa5\xb4\xc3\xd2\xe1\xf0",
                backend: GuardKind::SwSync,
            }),
        ),
        reply("devices", 2, 0, Reply::Devices(vec![device()])),
        reply("devices-none", 2, 0, Reply::Devices(vec![])),
        reply(
            "exported",
            3,
            0,
            Reply::Exported(Exported { buffer: ObjectId(17), at: at(), token: None }),
        ),
        reply(
            "exported-granted",
            4,
            0,
            Reply::Exported(Exported { buffer: ObjectId(17), at: at(), token: Some(token()) }),
        ),
        reply("granted", 4, 0, Reply::Granted(token())),
        reply(
            "imported",
            6,
            2,
            Reply::Imported(Imported {
                import: ObjectId(18),
                buffer: ObjectId(17),
                at: Some(at()),
                layout: layout(),
                sizes: vec![3_133_440, 3_133_440],
                cpu_sync: true,
            }),
        ),
        reply(
            "imported-neutral",
            6,
            1,
            Reply::Imported(Imported {
                import: ObjectId(51),
                buffer: ObjectId(50),
                at: None,
                layout: neutral_layout(),
                sizes: vec![8_294_400],
                cpu_sync: false,
            }),
        ),
        reply(
            "allocated",
            20,
            1,
            Reply::Allocated(Allocated {
                buffer: ObjectId(50),
                layout: neutral_layout(),
                sizes: vec![8_294_400],
                cpu_sync: false,
            }),
        ),
        reply("inhibited", 22, 0, Reply::Inhibited(ObjectId(52))),
        reply("done", 8, 0, Reply::Done(())),
        reply(
            "fence-shared",
            9,
            0,
            Reply::FenceShared(FenceShared {
                fence: ObjectId(300),
                at: at(),
                guard: GuardKind::SwSync,
                token: Some(token()),
            }),
        ),
        reply(
            "fence-imported",
            10,
            1,
            Reply::FenceImported(FenceImported {
                fence: ObjectId(300),
                at: at(),
                guard: GuardKind::SwSync,
                state: FenceState::Pending,
            }),
        ),
        reply(
            "fence-imported-ended",
            10,
            0,
            Reply::FenceImported(FenceImported {
                fence: ObjectId(300),
                at: at(),
                guard: GuardKind::Vgem,
                state: FenceState::Ok { at_ns: 5_000_000_000 },
            }),
        ),
        reply("fence-state-pending", 11, 0, Reply::FenceState(FenceState::Pending)),
        reply(
            "fence-state-failed",
            11,
            0,
            Reply::FenceState(FenceState::Failed {
                cause: Cause::Exporter(125),
                at_ns: 5_000_000_000,
            }),
        ),
        reply(
            "error",
            6,
            0,
            Reply::Error(
                WireError::new(ErrorCode::DEVICE_LOST, "device 3 (0000:06:00.0) was unplugged")
                    .about(3),
            ),
        ),
        reply(
            "error-errno",
            3,
            0,
            Reply::Error(
                WireError::new(ErrorCode::INTERNAL, "no more files can be opened")
                    .errno(&std::io::Error::from_raw_os_error(24)),
            ),
        ),
    ]
}

fn timeline_replies() -> Vec<Example> {
    let made = TimelineInfo {
        timeline: ObjectId(40),
        at: at(),
        direction: Direction::Acquire,
        guard: GuardKind::SwSync,
        promised: 0,
    };
    let imported = TimelineInfo {
        timeline: ObjectId(41),
        at: at(),
        direction: Direction::Release,
        guard: GuardKind::None,
        promised: 6,
    };
    let at_ns = 5_000_000_000;
    vec![
        reply("timeline", 12, 2, Reply::Timeline(made)),
        reply("timeline-imported", 16, 2, Reply::Timeline(imported)),
        reply("point-state-unknown", 17, 0, Reply::PointState(PointState::Unknown)),
        reply("point-state-ok", 17, 0, Reply::PointState(PointState::Ok { at_ns })),
        reply(
            "point-state-failed",
            18,
            0,
            Reply::PointState(PointState::Failed { cause: Cause::Exporter(130), at_ns }),
        ),
    ]
}

fn events() -> Vec<Example> {
    vec![
        event("device-added", Event::DeviceAdded(device())),
        event(
            "device-lost",
            Event::DeviceLost(DeviceLost {
                device: DeviceId(3),
                cause: Cause::Unplugged,
                at_ns: 123_456_789_012,
                buffers: 0,
                imports: 3,
                fences: 1,
            }),
        ),
        event("device-gone", Event::DeviceGone(DeviceId(3))),
        event(
            "device-wedged",
            Event::DeviceWedged(DeviceWedged {
                device: DeviceId(3),
                at_ns: 123_456_789_012,
                recovery: "rebind,bus-reset".into(),
                task: "game".into(),
                fences: 2,
            }),
        ),
        event("device-stays", Event::DeviceStays(DeviceId(3))),
        event(
            "removal-requested",
            Event::RemovalRequested(RemovalRequested {
                device: DeviceId(3),
                why: "a synthetic remove of card1".into(),
            }),
        ),
    ]
}

fn examples() -> impl Iterator<Item = Example> {
    let requests = [requests(), timeline_requests(), client_requests()];
    let replies = [replies(), timeline_replies(), events()];
    requests.into_iter().chain(replies).flatten()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let mut words = String::new();
        for (i, byte) in line.iter().enumerate() {
            write!(words, "{}{byte:02x}", if i == 8 { "  " } else { " " }).unwrap();
        }
        writeln!(text, "{}", words.trim_start()).unwrap();
    }
    text
}

/// The lines of the block of `name`, between its fences.
fn block<'a>(text: &'a str, name: &str) -> Option<(usize, &'a str)> {
    let open = format!("\n```hex {name}\n");
    let start = text.find(&open)? + open.len();
    let len = text[start..].find("```")?;
    Some((start, &text[start..start + len]))
}

#[test]
fn the_bytes_are_what_the_codec_produces() {
    let bless = std::env::var_os("DMASHARE_BLESS").is_some();
    let mut text = TEXT.to_owned();
    let mut wrong = Vec::new();
    let mut count = 0;
    for example in examples() {
        count += 1;
        let right = hex(&example.bytes);
        match block(&text, example.name) {
            Some((_, there)) if there == right => {}
            Some((start, there)) if bless => {
                let end = start + there.len();
                text.replace_range(start..end, &right);
            }
            Some(_) => {
                wrong.push(format!("the bytes of `{}` are wrong; right:\n{right}", example.name))
            }
            None => wrong.push(format!("there is no example `{}`", example.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(TEXT.matches("\n```hex ").count(), count, "an example that no test knows");
    if bless {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/PROTOCOL.md"), text).unwrap();
    }
}

#[test]
fn every_message_is_in_a_table() {
    for example in examples() {
        let header = codec::decode_header(&example.bytes).unwrap();
        let name = match header.kind {
            kind @ 0..0x8000 => {
                let (_, message) =
                    codec::decode_request(&example.bytes, header.fds.into()).unwrap();
                let row = format!("| {kind} | `{}` |", message.name());
                assert!(TEXT.contains(&row), "PROTOCOL.md lacks the row {row:?}");
                continue;
            }
            _ => match codec::decode_incoming(&example.bytes, header.fds.into()).unwrap() {
                Incoming::Reply(_, reply) => reply.name(),
                Incoming::Event(event) => event.name(),
            },
        };
        let row = format!("| {:#06x} | `{name}` |", header.kind);
        assert!(TEXT.contains(&row), "PROTOCOL.md lacks the row {row:?}");
    }
}

#[test]
fn the_limits_are_in_the_table() {
    let rows = [
        ("version", u64::from(limits::VERSION)),
        ("datagram, bytes", limits::MAX_MESSAGE as u64),
        ("fds beside a datagram", limits::MAX_FDS as u64),
        ("planes of a buffer", limits::MAX_PLANES as u64),
        ("name of a client, bytes", limits::MAX_NAME as u64),
        ("reason of an inhibitor, bytes", limits::MAX_WHY as u64),
        ("width and height, pixels", u64::from(limits::MAX_EXTENT)),
        ("life of a token, ms", u64::from(limits::MAX_TOKEN_TTL_MS)),
        ("highest point of a timeline", limits::MAX_POINT),
        ("state page, bytes", state_page::SIZE as u64),
        ("slots of the state page", u64::from(state_page::SLOTS)),
    ];
    let rows = rows.map(|(what, value)| format!("| {what} | {value} |"));
    let (_, table) = TEXT.split_once("Fixed in version 1:\n\n").unwrap();
    let table: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(table, rows, "PROTOCOL.md has other limits");
    // So that none is forgotten here: all but the two of the state page are in one file.
    let limits = include_str!("../src/limits.rs").matches("pub const ").count();
    assert_eq!(limits + 2, rows.len(), "a limit is in no row");
}

/// An example for each number that the codec knows, found by trying all of them.
#[test]
fn no_message_is_without_an_example() {
    let kinds: Vec<u16> =
        examples().map(|example| codec::decode_header(&example.bytes).unwrap().kind).collect();
    for kind in 0..=u16::MAX {
        let mut bytes = vec![0; codec::HEADER];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        let unknown = [
            codec::decode_request(&bytes, 0).err().map(|e| e.error.code),
            codec::decode_incoming(&bytes, 0).err().map(|e| e.error.code),
        ]
        .iter()
        .all(|code| *code == Some(ErrorCode::UNKNOWN_MESSAGE));
        assert_eq!(unknown, !kinds.contains(&kind), "message {kind:#06x}");
    }
}
