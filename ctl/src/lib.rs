//! What `dmasharectl` is made of: the rendering of unplug reports (also used by the demo), the view
//! of the broker on D-Bus as of a moment and as it changes, ejects, the screen, and the doctor. The
//! binary only parses arguments and prints.

mod agent;
pub mod attach;
pub mod bus;
pub mod doctor;
pub mod eject;
pub mod failure;
pub mod holders;
pub mod job;
pub mod json;
pub mod live;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod output;
pub mod rehearse;
pub mod render;
pub mod select;
#[cfg(test)]
mod snapshot;
pub mod span;
pub mod top;
pub mod watch;
pub mod world;
