//! What actors are told, and what they answer.

use std::fmt;
use std::path::PathBuf;

use dmashare::{Cause, DeviceId, ObjectId, PointState};
use serde::{Deserialize, Serialize};

use super::{Copies, FenceEnd, Looped, Pace, PointEnd, Reading, Tally, TimelineTask};
use crate::Card;

/// An object that an actor keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(pub u64);

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Connect to the broker, and serve its events on a thread. → [`Done::Nothing`]
    Connect {
        /// The broker's.
        socket: PathBuf,
        /// What to call itself there.
        name: String,
    },
    /// Make a buffer on a card and export it. → [`Done::Object`]
    Export {
        /// Its maker.
        card: Card,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Make a token for an exported buffer, a shared fence or an own timeline. → [`Done::Token`]
    Grant {
        /// What for.
        key: Key,
        /// For this user, or for whoever has it.
        uid: Option<u32>,
        /// How often it can be used.
        uses: u32,
    },
    /// Import a buffer and map it, if it is to be used by a GPU also into that. → [`Done::Object`]
    Import {
        /// The right.
        token: String,
        /// The GPU, or none for the CPU alone.
        by: Option<Card>,
    },
    /// Fill a buffer with a byte: an exported one as its maker, an imported one in a bracket.
    /// → [`Done::Nothing`]
    Fill {
        /// Which.
        key: Key,
        /// With what.
        byte: u8,
    },
    /// Count the bytes of a buffer that have a value, likewise. → [`Done::Count`]
    Count {
        /// Which.
        key: Key,
        /// What.
        byte: u8,
    },
    /// Share a fence: the one beside this task, or a new one of vgem (simulated: a simulated one).
    /// → [`Done::Object`]
    ShareFence {
        /// Whose it is said to be.
        card: Card,
        /// The deadline, in milliseconds; 0 is the broker's default.
        deadline_ms: u64,
    },
    /// End the vgem fence that was shared. → [`Done::Nothing`]
    Signal {
        /// Which.
        key: Key,
    },
    /// → [`Done::Object`]
    ImportFence {
        /// The right.
        token: String,
    },
    /// Wait for an imported fence. → [`Done::Fence`]
    Wait {
        /// Which.
        key: Key,
        /// For how long.
        bound_ms: u64,
    },
    /// How an imported fence stands now. → [`Done::Fence`]
    Status {
        /// Which.
        key: Key,
    },
    /// Give an object back, and wait for the broker's answer. → [`Done::Nothing`]
    Release {
        /// Which.
        key: Key,
    },
    /// Read an imported buffer in a loop until its device is lost. → [`Done::Read`]
    ReadUntilLost {
        /// Which.
        key: Key,
    },
    /// Copy an imported buffer, which is full of a byte, in a loop until its device is lost.
    /// → [`Done::Copies`]
    CopyUntilLost {
        /// Which.
        key: Key,
        /// Of what it is full.
        byte: u8,
    },
    /// Export, import, share and wait in a loop: this often, or until the device is lost.
    /// → [`Done::Tally`]
    Hammer {
        /// Whose device.
        card: Card,
        /// Rounds; `None`: until the loss and some more.
        rounds: Option<u32>,
        /// A token for a buffer of another process, to be imported in each round.
        foreign: Option<String>,
    },
    /// Keep the descriptors beside this task, and do nothing with them. → [`Done::Kept`]
    Keep,
    /// Map the one beside this task, and keep the mapping alone. → [`Done::Kept`]
    KeepMapping {
        /// From where, in bytes.
        offset: u64,
        /// How much of it.
        len: usize,
    },
    /// Wait until the loss of a device was told and taken care of. → [`Done::Lost`]
    AwaitLoss {
        /// Which.
        device: DeviceId,
    },
    /// Ask on the bus why an object ended: the cause, or the name of the error. → [`Done::Cause`]
    AskCause {
        /// Where the broker is.
        bus: String,
        /// Which object.
        object: ObjectId,
    },
    /// Something with a timeline.
    Timeline(TimelineTask),
    /// Share frames between two connections of its own, until the pipe beside this task hangs up.
    /// → [`Done::Pace`]
    KeepPace {
        /// The broker's.
        socket: PathBuf,
        /// Whose buffers.
        card: Card,
        /// How many frames at least.
        enough: usize,
    },
    /// How many dma-bufs are open here. → [`Done::Count`]
    DmaBufs,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the tasks say which is whose")]
pub enum Done {
    Nothing,
    Object { key: Key, id: ObjectId, device: DeviceId },
    Kept(Key),
    Token(String),
    Count(u64),
    Fence(FenceEnd),
    Read(Reading),
    Copies(Copies),
    Tally(Tally),
    Lost(Loss),
    Cause(Result<(String, i32, u64), String>),
    Point(PointState),
    Points(Vec<PointEnd>),
    Looped(Looped),
    Pace(Pace),
}

/// A loss as a client was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Which device.
    pub device: DeviceId,
    /// Why.
    pub cause: Cause,
    /// When its gate was closed, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// When the client had it, with all mappings revoked.
    pub told_ns: u64,
    /// Imports of the client's.
    pub imports: usize,
    /// Exports of the client's.
    pub buffers: u32,
    /// Fences of the client's.
    pub fences: u32,
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whether it is the loss of the device.
    pub device_lost: bool,
    /// The broker's error code, if it is its error.
    pub code: Option<u16>,
    /// A positive errno, or 0.
    pub errno: i32,
    /// For a person.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        let text = format!("{error:#}");
        if let Some(error) = error.downcast_ref::<dmashare::Error>() {
            return Self {
                device_lost: error.is_device_lost(),
                code: error.code().map(|code| code.0),
                errno: error.errno(),
                text,
            };
        }
        let errno = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        let errno = errno.unwrap_or(0);
        Self { device_lost: errno == libc::ENODEV, code: None, errno, text }
    }
}

macro_rules! expect {
    ($($(#[$doc:meta])* $name:ident => $pattern:pat => $value:expr, $type:ty;)*) => {
        impl Done {
            $($(#[$doc])*
            ///
            /// # Errors
            /// It is something else.
            pub fn $name(self) -> anyhow::Result<$type> {
                match self {
                    $pattern => Ok($value),
                    other => anyhow::bail!("the actor gave {other:?}"),
                }
            })*
        }
    };
}

expect! {
    /// The key of the object that was made.
    key => Self::Object { key, .. } => key, Key;
    /// The object that was made, with its id and its device.
    object => Self::Object { key, id, device } => (key, id, device), (Key, ObjectId, DeviceId);
    /// The key of what is kept.
    kept => Self::Kept(key) => key, Key;
    /// The token.
    token => Self::Token(token) => token, String;
    /// The number.
    count => Self::Count(count) => count, u64;
    /// How the fence ended.
    fence => Self::Fence(end) => end, FenceEnd;
    /// What was read.
    read => Self::Read(reading) => reading, Reading;
    /// What was copied.
    copies => Self::Copies(copies) => copies, Copies;
    /// What was counted.
    tally => Self::Tally(tally) => tally, Tally;
    /// Why something ended, or why that is not told.
    cause => Self::Cause(told) => told, Result<(String, i32, u64), String>;
    /// How the point stands.
    point => Self::Point(state) => state, PointState;
    /// How the points ended.
    points => Self::Points(ends) => ends, Vec<PointEnd>;
    /// What the event loop saw.
    looped => Self::Looped(looped) => looped, Looped;
    /// How long sharing took.
    pace => Self::Pace(pace) => pace, Pace;
    /// The loss.
    loss => Self::Lost(loss) => loss, Loss;
}
