//! The messages. Each variant's number on the wire is fixed here and in PROTOCOL.md; the bodies are
//! postcard, in the order of the fields.

use serde::{Deserialize, Serialize};

pub use crate::client::{Declare, Inhibit, InhibitMode, LossPolicy, RemovalRequested};
use crate::error::{ErrorCode, WireError};
use crate::ids::{DeviceId, ObjectId, Token};
use crate::limits::MAX_NAME;
pub use crate::neutral::{Allocate, Allocated};
use crate::state_page::{DeviceState, Word};
pub use crate::timeline::{
    Access, AttachFence, CreateTimeline, DeviceWedged, Direction, PointAt, PointState, SubmitPoint,
    TimelineInfo,
};

macro_rules! messages {
    (
        $(#[$doc:meta])* $set:ident { $($(#[$vdoc:meta])* $name:ident($body:ty) = $kind:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $set { $($(#[$vdoc])* $name($body),)* }

        impl $set {
            /// The message's number on the wire.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $kind,)* }
            }

            /// The message's name, for logs.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            pub(crate) fn encode_body(&self, to: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
                match self { $(Self::$name(body) => postcard::to_extend(body, to),)* }
            }

            /// `None` where no message of this set has that number.
            pub(crate) fn decode_body(
                kind: u16,
                bytes: &[u8],
            ) -> Option<Result<(Self, &[u8]), postcard::Error>> {
                match kind {
                    $($kind => Some(
                        postcard::take_from_bytes::<$body>(bytes)
                            .map(|(body, rest)| (Self::$name(body), rest)),
                    ),)*
                    _ => None,
                }
            }
        }

        impl crate::codec::MessageSet for $set {
            fn kind(&self) -> u16 { self.kind() }
            fn encode_body(&self, to: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
                self.encode_body(to)
            }
            fn decode_body(
                kind: u16,
                bytes: &[u8],
            ) -> Option<Result<(Self, &[u8]), postcard::Error>> {
                Self::decode_body(kind, bytes)
            }
        }
    };
}

messages! {
    /// From a client to the broker. Each is answered by exactly one [`Reply`] with the same id.
    Request {
        /// First message of a connection.
        Hello(Hello) = 1,
        /// Which GPUs are there.
        ListDevices(()) = 2,
        /// Give a dma-buf to the broker. Fds: a DRM node of the exporter, then one a plane.
        Export(Export) = 3,
        /// Make a token for an own buffer or fence.
        Grant(Grant) = 4,
        /// Use a token for a buffer. Fds: none, or a DRM node of the importing device.
        Import(Import) = 5,
        /// Give back a buffer, an import or a fence.
        Release(ObjectId) = 6,
        /// Give a sync_file to the broker. Fds: a DRM node of the exporter, the sync_file.
        ShareFence(ShareFence) = 7,
        /// Use a token for a fence.
        ImportFence(Token) = 8,
        /// How a fence stands, with the cause of its end.
        QueryFence(ObjectId) = 9,
        /// Everything of the lost device has been let go of.
        Acknowledge(DeviceId) = 10,
        /// Make a timeline. Fds: a DRM node of the device whose loss ends it.
        CreateTimeline(CreateTimeline) = 11,
        /// Points up to this one will come.
        PromisePoint(PointAt) = 12,
        /// Hand over a point's source. Fds: none (the work is done), or a DRM node of the source's
        /// device and the sync_file.
        SubmitPoint(SubmitPoint) = 13,
        /// Use a token for a timeline.
        ImportTimeline(Token) = 14,
        /// How a point stands, with the cause of its end.
        QueryPoint(PointAt) = 15,
        /// The same, answered once the point is signalled.
        WaitPoint(PointAt) = 16,
        /// Put a fence into a buffer's reservation object.
        AttachFence(AttachFence) = 17,
        /// Make a neutral buffer, which belongs to no device.
        Allocate(Allocate) = 18,
        /// What the client wants done with it on a loss.
        Declare(Declare) = 19,
        /// Hold ejects up, until the object is released.
        Inhibit(Inhibit) = 20,
    }
}

messages! {
    /// The broker's answer to a [`Request`].
    Reply {
        /// To `Hello`. Fds: the state page.
        Welcome(Welcome) = 0x8001,
        /// To `ListDevices`.
        Devices(Vec<DeviceInfo>) = 0x8002,
        /// To `Export`.
        Exported(Exported) = 0x8003,
        /// To `Grant`.
        Granted(Token) = 0x8004,
        /// To `Import`. Fds: one a plane.
        Imported(Imported) = 0x8005,
        /// To `Release`, `Acknowledge`, `PromisePoint`, `SubmitPoint`, `AttachFence` and `Declare`.
        Done(()) = 0x8006,
        /// To `ShareFence`.
        FenceShared(FenceShared) = 0x8007,
        /// To `ImportFence`. Fds: the guard (or the passed source); none where the fence has ended.
        FenceImported(FenceImported) = 0x8008,
        /// To `QueryFence`.
        FenceState(FenceState) = 0x8009,
        /// To `CreateTimeline` and `ImportTimeline`. Fds: the drm_syncobj, and what hangs up when the
        /// timeline is lost.
        Timeline(TimelineInfo) = 0x800a,
        /// To `QueryPoint` and `WaitPoint`.
        PointState(PointState) = 0x800b,
        /// To `Allocate`. Fds: one a plane.
        Allocated(Allocated) = 0x800c,
        /// To `Inhibit`: the new object.
        Inhibited(ObjectId) = 0x800d,
        /// To any: it failed, and nothing was changed.
        Error(WireError) = 0xffff,
    }
}

messages! {
    /// From the broker, unasked. Its id is 0.
    Event {
        /// A device is there.
        DeviceAdded(DeviceInfo) = 0xc001,
        /// A device is lost. Sent once to every client, whatever it had of it.
        DeviceLost(DeviceLost) = 0xc002,
        /// Nothing of a lost device is left; its id is never used again.
        DeviceGone(DeviceId) = 0xc003,
        /// A driver has declared its device wedged; it is still there.
        DeviceWedged(DeviceWedged) = 0xc004,
        /// Somebody asks that a device be let go of.
        RemovalRequested(RemovalRequested) = 0xc005,
        /// The eject of which `RemovalRequested` told does not take place: the device stays.
        DeviceStays(DeviceId) = 0xc006,
    }
}

/// What a client speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest version that the client speaks.
    pub version_min: u16,
    /// Highest version that the client speaks.
    pub version_max: u16,
    /// Features that the client would use, a bit each. None is defined in version 1.
    pub features: u64,
    /// What the client calls itself, for tables and logs; believed for nothing else.
    pub name: String,
}

/// What the broker agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both use from here.
    pub version: u16,
    /// Features that both have.
    pub features: u64,
    /// Random for each life of the service's state: ids mean something only beside it.
    pub instance: [u8; 16],
    /// Which guards the broker makes.
    pub backend: GuardKind,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Where its state is read.
    pub at: DeviceAt,
    /// As now; the state page is newer.
    pub state: DeviceState,
    /// The kernel driver.
    pub driver: String,
    /// PCI address (`0000:01:00.0`), empty for a device that is not on a PCI bus.
    pub pci: String,
    /// DRM nodes (`/dev/dri/card1`).
    pub nodes: Vec<String>,
    /// Whether it can be pulled: its fences are guarded.
    pub removable: bool,
}

/// A device, and where on the state page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAt {
    /// The device.
    pub device: DeviceId,
    /// Its slot.
    pub slot: u32,
    /// Its word when the message was made: [`Word::is_usable_since`].
    pub word: Word,
}

/// Size and layout of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// A DRM format code (`drm_fourcc.h`).
    pub fourcc: u32,
    /// A DRM format modifier.
    pub modifier: u64,
    /// One to four.
    pub planes: Vec<Plane>,
}

/// Where a plane lies in its dma-buf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plane {
    /// Bytes from the start of the dma-buf.
    pub offset: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
}

/// A buffer to share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its layout; a file descriptor beside the message for each plane.
    pub layout: Layout,
    /// A token for it is wanted too, which saves a [`Request::Grant`].
    pub grant: Option<Terms>,
}

/// An exported buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The new buffer.
    pub buffer: ObjectId,
    /// Its exporter device.
    pub at: DeviceAt,
    /// The token that was wanted with it.
    pub token: Option<Token>,
}

/// Who may use a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grantee {
    /// Whoever has it.
    Anyone,
    /// Processes of this user.
    Uid(u32),
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Who may use it.
    pub to: Grantee,
    /// How often, at least 1.
    pub uses: u32,
    /// For how long, in milliseconds, 1 to [`crate::limits::MAX_TOKEN_TTL_MS`].
    pub ttl_ms: u32,
}

/// A right to hand out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A buffer, a fence or a timeline of the client's own.
    pub object: ObjectId,
    /// What the token is good for.
    pub terms: Terms,
}

/// A token to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The right.
    pub token: Token,
    /// Who will read the buffer: the CPU alone, or a device too (whose node is the one fd beside).
    pub by: Importer,
}

/// The importing side of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Importer {
    /// Mappings only.
    Cpu,
    /// A GPU.
    Device,
}

/// An imported buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The new import.
    pub import: ObjectId,
    /// The buffer that it is of.
    pub buffer: ObjectId,
    /// The exporter device: its loss takes the import back. `None` for a neutral buffer, which no
    /// loss takes.
    pub at: Option<DeviceAt>,
    /// Size and layout.
    pub layout: Layout,
    /// Bytes of each plane's dma-buf.
    pub sizes: Vec<u64>,
    /// Whether CPU access is to be bracketed by DMA_BUF_IOCTL_SYNC.
    pub cpu_sync: bool,
}

/// How a fence reaches its importers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// A guard where the exporter can be pulled, else the source itself.
    Auto,
    /// A guard.
    Guard,
    /// The source itself; counted and watched all the same.
    Pass,
}

/// A fence to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareFence {
    /// How it reaches importers.
    pub policy: Policy,
    /// After how many milliseconds it ends with ETIMEDOUT; 0 is the broker's default.
    pub deadline_ms: u32,
    /// A token for it is wanted too, which saves a [`Request::Grant`].
    pub grant: Option<Terms>,
}

/// What an importer of a fence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardKind {
    /// The source's own sync_file.
    Source,
    /// A sync_file of a sw_sync timeline: its status tells ok from error, though always ENOENT.
    SwSync,
    /// A sync_file of a vgem fence: it reads as ok however it ended; ask by `QueryFence`.
    Vgem,
    /// A simulated fence (an eventfd): ask by `QueryFence`.
    Simulated,
    /// No guards can be made here.
    None,
}

impl GuardKind {
    /// The name on D-Bus and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "pass",
            Self::SwSync => "sw_sync",
            Self::Vgem => "vgem",
            Self::Simulated => "simulated",
            Self::None => "none",
        }
    }
}

/// A shared fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceShared {
    /// The new fence.
    pub fence: ObjectId,
    /// Its exporter device.
    pub at: DeviceAt,
    /// What importers get.
    pub guard: GuardKind,
    /// The token that was wanted with it.
    pub token: Option<Token>,
}

/// An imported fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceImported {
    /// The fence: to be asked about, and released.
    pub fence: ObjectId,
    /// Its exporter device.
    pub at: DeviceAt,
    /// What the fd beside is.
    pub guard: GuardKind,
    /// Anything but `Pending`: it has ended, and no fd is beside.
    pub state: FenceState,
}

/// How a fence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceState {
    /// Not ended.
    Pending,
    /// Its work is done.
    Ok {
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
    },
    /// It ended, and its work is not done.
    Failed {
        /// Why.
        cause: Cause,
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
    },
}

/// Why a device was lost or a fence failed. It travels beside the kernel's objects, whose waits
/// hide errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The kernel reported the device's removal.
    Unplugged,
    /// The device was not there any more when it was looked at; nothing had reported it.
    Vanished,
    /// The driver declared the device wedged.
    Wedged,
    /// The device was ejected.
    Ejected,
    /// The exporter's driver ended the fence with this (positive) errno.
    Exporter(i32),
    /// The fence passed its deadline.
    TimedOut,
    /// A rehearsal; the hardware is untouched.
    Rehearsed,
}

impl Cause {
    /// The positive errno that the library gives for it, the same on every backend.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Unplugged | Self::Vanished | Self::Ejected | Self::Rehearsed => 19, // ENODEV
            Self::Wedged => 5,                                                        // EIO
            Self::Exporter(errno) => errno,
            Self::TimedOut => 110, // ETIMEDOUT
        }
    }

    /// The name on D-Bus, in JSON and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unplugged => "unplugged",
            Self::Vanished => "vanished",
            Self::Wedged => "wedged",
            Self::Ejected => "ejected",
            Self::Exporter(_) => "exporter-error",
            Self::TimedOut => "timed-out",
            Self::Rehearsed => "rehearsed",
        }
    }

    /// Why a device was lost, by its name. None for what only a fence can end by, and for names that
    /// this version does not know.
    #[must_use]
    pub fn of_loss(name: &str) -> Option<Self> {
        [Self::Unplugged, Self::Vanished, Self::Wedged, Self::Ejected, Self::Rehearsed]
            .into_iter()
            .find(|cause| cause.name() == name)
    }
}

/// A lost device, and what this client had of it. One message, however much that was: an import
/// names its device when it is made, so the client knows which ones they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLost {
    /// The device.
    pub device: DeviceId,
    /// Why.
    pub cause: Cause,
    /// When its gate was closed, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// Buffers that the client had exported.
    pub buffers: u32,
    /// Imports that the client must let go of. If there are any, `Acknowledge` is awaited.
    pub imports: u32,
    /// What ended with the cause of the client's: fences, shared or imported, pending points of its
    /// timelines, and each timeline's promises as one.
    pub fences: u32,
}

/// An answer that says why not.
impl From<WireError> for Reply {
    fn from(error: WireError) -> Self {
        Self::Error(error)
    }
}

/// Refuses names that would disturb a table or a log.
///
/// # Errors
/// [`ErrorCode::BAD_VALUE`] if the name is too long or has control characters.
pub fn check_name(name: &str) -> Result<(), WireError> {
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(WireError::new(
            ErrorCode::BAD_VALUE,
            format!("a client's name has at most {MAX_NAME} bytes and no control characters"),
        ));
    }
    Ok(())
}
