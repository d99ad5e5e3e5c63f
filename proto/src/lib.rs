//! The data-plane protocol of dmashare: messages, codec, fd-passing transport, and the layout of
//! the state page. `PROTOCOL.md` beside this crate is the normative text; this crate follows it.
//!
//! Everything but [`transport`] and [`fd_passing`] is free of I/O.

pub mod activity;
pub mod client;
pub mod codec;
pub mod error;
pub mod fd_passing;
pub mod holders;
pub mod ids;
pub mod job;
pub mod keeper;
pub mod kill;
pub mod limits;
pub mod linear;
pub mod message;
pub mod neutral;
pub mod report;
pub mod state_page;
pub mod stats;
pub mod sysfs;
pub mod timeline;
pub mod token_pool;
pub mod transport;
pub mod usage;

pub use error::{ErrorCode, WireError};
pub use ids::{ClientId, DeviceId, ObjectId, Token};
pub use message::{Event, Reply, Request};
