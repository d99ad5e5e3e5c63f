//! What the core wants done. The shell carries effects out in their order.

use std::sync::Arc;

use dmashare_proto::message::{
    Cause, Event, GuardKind, Layout, LossPolicy, PointAt, Policy, Reply, Terms,
};
use dmashare_proto::report::Step;
use dmashare_proto::state_page::Word;
use dmashare_proto::{ClientId, DeviceId, ObjectId, Token, WireError, message};

use super::neutral::Allocation;
use crate::devices::{DeviceDesc, NodeId};
use crate::gate::Gate;
use crate::view::{Counts, DeviceView};

/// How a device stands that is not lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// In use.
    #[default]
    Present,
    /// About to be ejected.
    Draining,
    /// The kernel is asked to remove it: its loss is an eject.
    Ejecting,
}

/// What stands for kernel objects in the core, which never looks inside.
pub trait Handles {
    /// A file descriptor, shared by cloning.
    type Fd: Clone;
    /// The broker's end of a guard fence; it is used up by ending the fence.
    type Ender;
    /// The broker's end of a timeline.
    type Line;
}

/// A message on its way to a client.
#[derive(Debug)]
pub enum Outgoing {
    /// The answer to a request.
    Reply(u64, Reply),
    /// Something that happened.
    Event(Event),
}

/// A request whose file descriptors have been looked at.
pub enum Checked<H: Handles> {
    /// See [`message::Request::Hello`].
    Hello(message::Hello),
    /// See [`message::Request::ListDevices`].
    ListDevices,
    /// See [`message::Request::Export`].
    Export {
        /// The exporter's DRM node.
        node: NodeId,
        /// Size and layout as the client states them.
        layout: Layout,
        /// A dma-buf a plane.
        planes: Vec<CheckedPlane<H::Fd>>,
        /// What a token is wanted for, and that token.
        grant: Option<(Terms, Token)>,
    },
    /// See [`message::Request::Grant`].
    Grant(message::Grant, Token),
    /// See [`message::Request::Import`].
    Import {
        /// The right.
        token: Token,
        /// The importing device's node, if a device imports.
        by: Option<NodeId>,
    },
    /// See [`message::Request::Release`].
    Release(ObjectId),
    /// See [`message::Request::ShareFence`].
    ShareFence {
        /// The exporter's DRM node.
        node: NodeId,
        /// The options.
        options: message::ShareFence,
        /// The source.
        source: CheckedFence<H>,
        /// The token, if its options want one.
        token: Option<Token>,
    },
    /// See [`message::Request::ImportFence`].
    ImportFence(Token),
    /// See [`message::Request::QueryFence`].
    QueryFence(ObjectId),
    /// See [`message::Request::Acknowledge`].
    Acknowledge(DeviceId),
    /// See [`message::Request::CreateTimeline`].
    CreateTimeline {
        /// A DRM node of the device whose loss ends it.
        node: NodeId,
        /// The options.
        options: message::CreateTimeline,
        /// The kernel's objects.
        made: CheckedTimeline<H>,
    },
    /// See [`message::Request::PromisePoint`].
    PromisePoint(PointAt),
    /// See [`message::Request::SubmitPoint`].
    SubmitPoint {
        /// The point.
        submit: message::SubmitPoint,
        /// Its source and a DRM node of the source's device; `None`: its work is done.
        source: Option<(NodeId, CheckedFence<H>)>,
    },
    /// See [`message::Request::ImportTimeline`].
    ImportTimeline(Token),
    /// See [`message::Request::QueryPoint`].
    QueryPoint(PointAt),
    /// See [`message::Request::WaitPoint`].
    WaitPoint(PointAt),
    /// See [`message::Request::AttachFence`].
    AttachFence(message::AttachFence),
    /// See [`message::Request::Allocate`].
    Allocate(message::Allocate),
    /// See [`message::Request::Declare`].
    Declare(message::Declare),
    /// See [`message::Request::Inhibit`].
    Inhibit(message::Inhibit),
}

/// A new timeline.
pub struct CheckedTimeline<H: Handles> {
    /// What maker and importers get.
    pub syncobj: H::Fd,
    /// What hangs up when the timeline is lost.
    pub hangup: H::Fd,
    /// The broker's end.
    pub line: H::Line,
}

/// A dma-buf that was looked at.
#[derive(Clone, Debug)]
pub struct CheckedPlane<F> {
    /// The descriptor.
    pub fd: F,
    /// The buffer's identity.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Who made it, as the kernel names it: a driver, or a helper shared by drivers.
    pub exporter: String,
}

/// A source fence that was looked at.
pub enum CheckedFence<H: Handles> {
    /// It had already ended: `Err` has the positive errno.
    Ended(Result<(), i32>),
    /// It is pending and will be passed through.
    Passed(H::Fd),
    /// It is pending, and this is its guard.
    Guarded {
        /// The source.
        source: H::Fd,
        /// What importers get.
        guard: H::Fd,
        /// The broker's end.
        ender: H::Ender,
        /// What it is made of.
        kind: GuardKind,
    },
}

/// What [`super::Broker::plan_fence`] found, before a guard is made for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FencePlan {
    /// Whether a guard is to be made.
    pub guard: bool,
    /// The policy that led there.
    pub policy: Policy,
}

/// Something to do.
pub enum Effect<H: Handles> {
    /// Send a message; the fds are borrowed from the tables.
    Send {
        /// To whom.
        client: ClientId,
        /// What.
        message: Outgoing,
        /// Beside it.
        fds: Vec<H::Fd>,
    },
    /// End a connection: after what is queued for it, or at once if the peer broke the protocol.
    Disconnect(ClientId),
    /// Watch a source fence, and end its guard when it ends, passes its deadline, or its device is
    /// lost.
    Watch {
        /// The fence.
        fence: ObjectId,
        /// Its exporter device.
        device: DeviceId,
        /// The source.
        source: H::Fd,
        /// The guard's end; `None` for a source that was passed through.
        ender: Option<H::Ender>,
        /// CLOCK_MONOTONIC, nanoseconds.
        deadline_ns: u64,
    },
    /// Ask the reactor how a fence stands and call [`super::Broker::probed`] with the same values.
    Probe {
        /// The fence.
        fence: ObjectId,
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
    },
    /// Keep a timeline, and end its promises when its device is lost.
    AddTimeline {
        /// The timeline.
        timeline: ObjectId,
        /// The device.
        device: DeviceId,
        /// The broker's end.
        line: H::Line,
    },
    /// Points up to this one will come.
    Promise {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
    },
    /// Put a fence to a point, before anything is said of it, and watch its source as for
    /// [`Effect::Watch`].
    SubmitPoint {
        /// The fence.
        fence: ObjectId,
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
        /// The source's device.
        device: DeviceId,
        /// What is put to the point; `None`: it is signalled when the source ends.
        put: Option<H::Fd>,
        /// The source.
        source: H::Fd,
        /// The guard's end.
        ender: Option<H::Ender>,
        /// CLOCK_MONOTONIC, nanoseconds.
        deadline_ns: u64,
    },
    /// Signal a point in its turn.
    SignalPoint {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
    },
    /// End what is promised and not submitted, and tell by [`super::Broker::promises_ended`].
    EndPromises {
        /// The timeline.
        timeline: ObjectId,
        /// Positive.
        errno: i32,
    },
    /// A loss is rehearsed for one client: end these as if their device were lost, and that before the
    /// next effect.
    EndRehearsed {
        /// Fences, in the order of their submission.
        fences: Vec<ObjectId>,
        /// Timelines: their promises end, and they hang up.
        timelines: Vec<ObjectId>,
        /// Fences whose guard ends for the one client that has it: they go on with a new guard.
        guards: Vec<(ObjectId, H::Ender)>,
    },
    /// Nobody has the timeline any more.
    DropTimeline(ObjectId),
    /// Call [`super::Broker::point_probed`] when the reactor has told all that it has ended so far,
    /// with what the kernel says of the timeline.
    ProbePoint {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
    },
    /// Call [`super::Broker::point_signalled`] when the kernel's timeline has come to the point.
    WatchPoint {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
    },
    /// Put a fence into the reservation objects of dma-bufs, and answer.
    Attach {
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
        /// The guard, or the passed source.
        fence: H::Fd,
        /// A dma-buf a reservation object.
        buffers: Vec<H::Fd>,
        /// Who has to wait.
        access: message::Access,
    },
    /// Make the memory of a neutral buffer, and call [`super::Broker::allocated`].
    Allocate(Allocation),
    /// Watch a device's removal. Also sent again when it gets another node.
    AddDevice {
        /// The device.
        device: DeviceId,
        /// What it is.
        desc: DeviceDesc,
        /// Its gate.
        gate: Arc<Gate>,
        /// Its slot on the state page.
        slot: u32,
        /// Its word there.
        word: Word,
    },
    /// How a device stands that is there: on the state page, and for the cause of its loss.
    Stand(DeviceId, Standing),
    /// Forget a device that is gone.
    ForgetDevice(DeviceId),
    /// Write a slot of the state page.
    Publish {
        /// Which.
        slot: u32,
        /// Whose.
        device: DeviceId,
        /// The word.
        word: Word,
    },
    /// Look for fences that are pending in these buffers' reservation objects.
    ScanImplicit(DeviceId, Vec<(ObjectId, H::Fd)>),
    /// Close these.
    Close(Vec<H::Fd>),
    /// Close these buffers, which nobody has any more. The last reference may be among them, and then it
    /// takes as long as their exporter takes to end them.
    Discard(Vec<H::Fd>),
    /// Note the time of a step in the device's report.
    Mark(DeviceId, Step),
    /// A client did not acknowledge in time: look what it holds, then apply the policy.
    Overdue {
        /// The device.
        device: DeviceId,
        /// The client.
        client: ClientId,
        /// Identities of the dma-bufs that it was to let go of.
        inodes: Vec<u64>,
        /// What it wants done with it.
        on_loss: LossPolicy,
    },
    /// Tell the bus that a device is lost.
    TellLost {
        /// The device as it is now: it can be gone by the time that the bus is told of all else.
        view: Box<DeviceView>,
        /// Why.
        cause: Cause,
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
        /// What it had.
        had: Counts,
    },
    /// Tell the bus that a device is wedged.
    TellWedged {
        /// The device as it is now.
        view: Box<DeviceView>,
        /// What its driver names as recovery.
        recovery: String,
        /// Who is blamed, or empty.
        task: String,
        /// Whether the event was asked for by writing to sysfs.
        injected: bool,
        /// Fences that ended by it.
        fences: u32,
    },
    /// Tell the bus that somebody wants a device to be let go of.
    TellRemovalRequested(DeviceId, String),
    /// Reserve ids up to this one (exclusive) before the next message goes out.
    ReserveIds(u64),
}

impl<H: Handles> Effect<H> {
    pub(super) fn reply(client: ClientId, id: u64, reply: Reply) -> Self {
        Self::Send { client, message: Outgoing::Reply(id, reply), fds: Vec::new() }
    }

    pub(super) fn event(client: ClientId, event: Event) -> Self {
        Self::Send { client, message: Outgoing::Event(event), fds: Vec::new() }
    }

    pub(super) fn error(client: ClientId, id: u64, error: WireError) -> Self {
        Self::reply(client, id, Reply::Error(error))
    }
}
