//! Any message, for property tests.

use dmashare_proto::codec::HEADER;
use dmashare_proto::message::{
    Access, Allocate, Allocated, AttachFence, Cause, CreateTimeline, Declare, DeviceAt, DeviceInfo,
    DeviceLost, DeviceWedged, Direction, Event, Export, Exported, FenceImported, FenceShared,
    FenceState, Grant, Grantee, GuardKind, Hello, Import, Imported, Importer, Inhibit, InhibitMode,
    Layout, LossPolicy, Plane, PointAt, PointState, Policy, RemovalRequested, Reply, Request,
    ShareFence, SubmitPoint, Terms, TimelineInfo, Welcome,
};
use dmashare_proto::state_page::{DeviceState, Word};
use dmashare_proto::{DeviceId, ErrorCode, ObjectId, Token, WireError};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn object() -> impl Strategy<Value = ObjectId> {
    any::<u64>().prop_map(ObjectId)
}

fn device_id() -> impl Strategy<Value = DeviceId> {
    any::<u64>().prop_map(DeviceId)
}

fn token() -> impl Strategy<Value = Token> {
    any::<[u8; 16]>().prop_map(Token)
}

fn at() -> impl Strategy<Value = DeviceAt> {
    (device_id(), any::<u32>(), any::<u32>()).prop_map(|(device, slot, word)| DeviceAt {
        device,
        slot,
        word: Word(word),
    })
}

fn state() -> impl Strategy<Value = DeviceState> {
    prop_oneof![
        Just(DeviceState::Present),
        Just(DeviceState::Draining),
        Just(DeviceState::Lost),
        Just(DeviceState::Gone),
    ]
}

fn device() -> impl Strategy<Value = DeviceInfo> {
    (at(), state(), text(), text(), prop::collection::vec(text(), 0..4), any::<bool>()).prop_map(
        |(at, state, driver, pci, nodes, removable)| DeviceInfo {
            at,
            state,
            driver,
            pci,
            nodes,
            removable,
        },
    )
}

fn layout() -> impl Strategy<Value = Layout> {
    let plane = any::<(u32, u32)>().prop_map(|(offset, stride)| Plane { offset, stride });
    (any::<(u32, u32, u32, u64)>(), prop::collection::vec(plane, 0..6)).prop_map(
        |((width, height, fourcc, modifier), planes)| Layout {
            width,
            height,
            fourcc,
            modifier,
            planes,
        },
    )
}

fn guard() -> impl Strategy<Value = GuardKind> {
    prop_oneof![
        Just(GuardKind::Source),
        Just(GuardKind::SwSync),
        Just(GuardKind::Vgem),
        Just(GuardKind::Simulated),
        Just(GuardKind::None),
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        Just(Cause::Unplugged),
        Just(Cause::Vanished),
        Just(Cause::Wedged),
        Just(Cause::Ejected),
        any::<i32>().prop_map(Cause::Exporter),
        Just(Cause::TimedOut),
        Just(Cause::Rehearsed),
    ]
}

fn fence_state() -> impl Strategy<Value = FenceState> {
    prop_oneof![
        Just(FenceState::Pending),
        any::<u64>().prop_map(|at_ns| FenceState::Ok { at_ns }),
        (cause(), any::<u64>()).prop_map(|(cause, at_ns)| FenceState::Failed { cause, at_ns }),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Auto), Just(Policy::Guard), Just(Policy::Pass)]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Acquire), Just(Direction::Release)]
}

fn point() -> impl Strategy<Value = PointAt> {
    (object(), any::<u64>()).prop_map(|(timeline, point)| PointAt { timeline, point })
}

fn point_state() -> impl Strategy<Value = PointState> {
    prop_oneof![
        Just(PointState::Unknown),
        Just(PointState::Promised),
        fence_state().prop_map(PointState::from),
        Just(PointState::Forgotten),
    ]
}

fn any_timeline_request() -> impl Strategy<Value = Request> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    prop_oneof![
        (policy(), direction()).prop_map(|(policy, direction)| {
            Request::CreateTimeline(CreateTimeline { policy, direction })
        }),
        point().prop_map(Request::PromisePoint),
        (point(), any::<u32>()).prop_map(|(to, deadline_ms)| {
            Request::SubmitPoint(SubmitPoint { to, deadline_ms })
        }),
        token().prop_map(Request::ImportTimeline),
        point().prop_map(Request::QueryPoint),
        point().prop_map(Request::WaitPoint),
        (object(), object(), access).prop_map(|(fence, buffer, access)| {
            Request::AttachFence(AttachFence { fence, buffer, access })
        }),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    let grantee = prop_oneof![Just(Grantee::Anyone), any::<u32>().prop_map(Grantee::Uid)];
    (grantee, any::<(u32, u32)>()).prop_map(|(to, (uses, ttl_ms))| Terms { to, uses, ttl_ms })
}

pub fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<(u16, u16, u64)>(), text()).prop_map(
            |((version_min, version_max, features), name)| Request::Hello(Hello {
                version_min,
                version_max,
                features,
                name,
            })
        ),
        Just(Request::ListDevices(())),
        (layout(), prop::option::of(terms()))
            .prop_map(|(layout, grant)| Request::Export(Export { layout, grant })),
        (object(), terms()).prop_map(|(object, terms)| Request::Grant(Grant { object, terms })),
        (token(), prop_oneof![Just(Importer::Cpu), Just(Importer::Device)])
            .prop_map(|(token, by)| Request::Import(Import { token, by })),
        object().prop_map(Request::Release),
        (policy(), any::<u32>(), prop::option::of(terms())).prop_map(
            |(policy, deadline_ms, grant)| Request::ShareFence(ShareFence {
                policy,
                deadline_ms,
                grant
            })
        ),
        token().prop_map(Request::ImportFence),
        object().prop_map(Request::QueryFence),
        device_id().prop_map(Request::Acknowledge),
        any_timeline_request(),
        any_client_request(),
    ]
}

fn any_client_request() -> impl Strategy<Value = Request> {
    let mode = prop::sample::select(&InhibitMode::ALL[..]);
    prop_oneof![
        any::<(u32, u32, u32)>().prop_map(|(width, height, fourcc)| {
            Request::Allocate(Allocate { width, height, fourcc })
        }),
        (prop::sample::select(&LossPolicy::ALL[..]), any::<bool>())
            .prop_map(|(on_loss, survives)| Request::Declare(Declare { on_loss, survives })),
        (prop::option::of(device_id()), mode, text())
            .prop_map(|(device, mode, why)| Request::Inhibit(Inhibit { device, mode, why })),
    ]
}

pub fn any_reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        (any::<(u16, u64, [u8; 16])>(), guard()).prop_map(
            |((version, features, instance), backend)| Reply::Welcome(Welcome {
                version,
                features,
                instance,
                backend,
            })
        ),
        prop::collection::vec(device(), 0..5).prop_map(Reply::Devices),
        (object(), at(), prop::option::of(token()))
            .prop_map(|(buffer, at, token)| Reply::Exported(Exported { buffer, at, token })),
        token().prop_map(Reply::Granted),
        (
            object(),
            object(),
            prop::option::of(at()),
            layout(),
            prop::collection::vec(any::<u64>(), 0..6),
            any::<bool>()
        )
            .prop_map(|(import, buffer, at, layout, sizes, cpu_sync)| {
                Reply::Imported(Imported { import, buffer, at, layout, sizes, cpu_sync })
            }),
        Just(Reply::Done(())),
        (object(), at(), guard(), prop::option::of(token())).prop_map(
            |(fence, at, guard, token)| Reply::FenceShared(FenceShared { fence, at, guard, token })
        ),
        (object(), at(), guard(), fence_state()).prop_map(|(fence, at, guard, state)| {
            Reply::FenceImported(FenceImported { fence, at, guard, state })
        }),
        fence_state().prop_map(Reply::FenceState),
        (object(), at(), direction(), guard(), any::<u64>()).prop_map(
            |(timeline, at, direction, guard, promised)| {
                Reply::Timeline(TimelineInfo { timeline, at, direction, guard, promised })
            }
        ),
        point_state().prop_map(Reply::PointState),
        (object(), layout(), prop::collection::vec(any::<u64>(), 0..6), any::<bool>()).prop_map(
            |(buffer, layout, sizes, cpu_sync)| {
                Reply::Allocated(Allocated { buffer, layout, sizes, cpu_sync })
            }
        ),
        object().prop_map(Reply::Inhibited),
        (any::<(u16, i32, u64)>(), text()).prop_map(|((code, errno, object), message)| {
            Reply::Error(WireError { code: ErrorCode(code), errno, object, message })
        }),
    ]
}

pub fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        device().prop_map(Event::DeviceAdded),
        (device_id(), cause(), any::<(u64, u32, u32, u32)>()).prop_map(
            |(device, cause, (at_ns, buffers, imports, fences))| {
                Event::DeviceLost(DeviceLost { device, cause, at_ns, buffers, imports, fences })
            }
        ),
        device_id().prop_map(Event::DeviceGone),
        (device_id(), any::<(u64, u32)>(), text(), text()).prop_map(
            |(device, (at_ns, fences), recovery, task)| {
                Event::DeviceWedged(DeviceWedged { device, at_ns, recovery, task, fences })
            }
        ),
        (device_id(), text()).prop_map(|(device, why)| {
            Event::RemovalRequested(RemovalRequested { device, why })
        }),
        device_id().prop_map(Event::DeviceStays),
    ]
}

/// A header without fds, most often of a kind that exists.
pub fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        4 => 1_u16..22,
        4 => 0x8001_u16..0x800f,
        2 => 0xc001_u16..0xc007,
        1 => Just(0xffff_u16),
        1 => any::<u16>(),
    ];
    (kind, any::<u64>()).prop_map(|(kind, id)| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.resize(8, 0);
        bytes.extend_from_slice(&id.to_le_bytes());
        assert_eq!(bytes.len(), HEADER);
        bytes
    })
}
