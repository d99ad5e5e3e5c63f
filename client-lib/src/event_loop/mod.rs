//! Connections and fences in the event loops of others.

#[cfg(feature = "calloop")]
mod calloop;
#[cfg(feature = "tokio")]
mod tokio;

#[cfg(feature = "calloop")]
pub use calloop::{ConnectionSource, FenceSource};
#[cfg(feature = "tokio")]
pub use tokio::Events;
