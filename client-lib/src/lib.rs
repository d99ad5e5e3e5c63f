//! Share dma-bufs, fences and timelines between processes on different GPUs through `dmashared`, so
//! that pulling an external GPU is an event and not a crash.
//!
//! What was imported through this library can be taken back: when the exporter's GPU goes away,
//! mappings show zeros in place of faulting, fences end with an error in place of never, fds are
//! closed, and the owner is told once, by [`Event::DeviceLost`].
//!
//! ```no_run
//! use std::os::fd::{AsFd, BorrowedFd};
//! use dmashare::{Access, Connection, Event, FenceStatus, Importer, Protection, Token};
//!
//! fn show(token: Token, fence: Token, gpu: BorrowedFd) -> Result<Vec<u8>, dmashare::Error> {
//!     let broker = Connection::builder().name("viewer").connect()?;
//!
//!     // The fence ends, whatever happens to the GPU that it belongs to.
//!     match broker.import_fence(fence)?.wait(None)? {
//!         FenceStatus::Failed(error) => eprintln!("{error}"),
//!         _ => {}
//!     }
//!
//!     // Reading its buffer never faults, and `end` says whether the bytes are good.
//!     let buffer = broker.import(token, Importer::Device(gpu))?;
//!     let memory = buffer.map(0, Protection::Read)?;
//!     let mut pixels = vec![0; memory.len()];
//!     let bracket = memory.begin(Access::Read)?;
//!     memory.copy_to_slice(0, &mut pixels)?;
//!     bracket.end()?;
//!
//!     // In an event loop: when `broker.as_fd()` is readable.
//!     for event in broker.dispatch(None)? {
//!         if let Event::DeviceLost(lost) = event {
//!             // Drop GEM handles and textures of `lost.imports()` first.
//!             lost.acknowledge()?;
//!         }
//!     }
//!     Ok(pixels)
//! }
//! ```
//!
//! # Who does what when a device is lost
//!
//! | | |
//! | --- | --- |
//! | at once, seen by every thread | [`Device::is_lost`], [`MappedBuffer::begin`] and [`Bracket::end`] say so; [`Device::wait_lost`], [`ImportedFence::wait`] and [`Timeline::wait`] wake, [`Timeline::lost_fd`] hangs up |
//! | as soon as any thread reads the event, or meets the loss in an import | the library replaces the import's mappings by zero pages, in place, and closes its fds |
//! | then | [`Connection::dispatch`] gives [`Event::DeviceLost`] |
//! | the owner's | to drop GEM handles, textures and duplicated fds, and then [`Lost`] |
//!
//! # Threads
//!
//! Everything is `Send` and `Sync`, and there is no thread in here. Of the threads that wait on one
//! connection one reads for all; no lock is held while it waits. After a `fork` the
//! connection is the parent's: in the child its calls fail with [`Error::Forked`], and dropping its
//! handles frees memory, closes the child's descriptors and tells the broker nothing.

//!
//! # Event loops
//!
//! [`Connection`] is one fd ([`std::os::fd::AsFd`]) to wait for, and [`Connection::dispatch`] to call then; a
//! fence is one too ([`ImportedFence::fd`]). The feature `calloop` makes event sources of both
//! (`ConnectionSource`, `FenceSource`), the feature `tokio` futures: `Connection::events`,
//! `Connection::lost`, `ImportedFence::wait_async` and `Timeline::wait_async`.

#![cfg(target_os = "linux")]

/// The code in the guide, the README and the book is compiled as documentation tests are.
#[cfg(doctest)]
mod texts {
    #[doc = include_str!("../../docs/compositors.md")]
    struct Compositors;
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/book/vulkan.md")]
    struct Vulkan;
    #[doc = include_str!("../../docs/book/daemon.md")]
    struct Daemon;
}

mod again;
mod builder;
mod channel;
mod connection;
mod deadline;
mod device;
mod error;
mod event;
#[cfg(any(feature = "calloop", feature = "tokio"))]
mod event_loop;
mod export;
mod fence;
mod fence_end;
mod fence_status;
mod handle;
mod handshake;
mod holding;
mod import;
mod import_core;
mod inner;
mod live;
mod mapped;
mod neutral;
mod object;
mod planes;
mod registry;
mod removal;
mod sigbus;
mod standing;
mod sync;
mod timeline;
mod token;

pub use builder::Builder;
pub use connection::{Connection, FenceOptions};
pub use device::{Device, DeviceInfo};
pub use error::{DeviceLost, Error};
pub use event::{Event, Lost, Reconnected, Wedged};
#[cfg(feature = "tokio")]
pub use event_loop::Events;
#[cfg(feature = "calloop")]
pub use event_loop::{ConnectionSource, FenceSource};
pub use export::ExportedBuffer;
pub use fence::{ImportedFence, SharedFence};
pub use fence_status::{FenceError, FenceStatus};
pub use import::{ImportedBuffer, Importer};
pub use mapped::{Bracket, MappedBuffer};
pub use neutral::NeutralBuffer;
pub use object::{Buffer, Fence, Shared};
pub use removal::Removal;
pub use sigbus::install_sigbus_guard;
pub use standing::Inhibitor;
pub use timeline::Timeline;
pub use token::{Grant, Token};

pub use dmashare_proto::limits::MAX_POINT;
pub use dmashare_proto::message::{
    Cause, Direction, Grantee, GuardKind, InhibitMode, Layout, LossPolicy, Plane, PointState,
    Policy,
};
pub use dmashare_proto::state_page::DeviceState;
pub use dmashare_proto::{DeviceId, ErrorCode, ObjectId, WireError};
pub use dmashare_uapi::dma_buf::Access;
pub use dmashare_uapi::mapping::Prot as Protection;
