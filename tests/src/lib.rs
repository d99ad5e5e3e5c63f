//! The harness of the whole-system tests: the real daemon, real other processes, real D-Bus, on one
//! of two machines.
//!
//! | machine | cards | daemon | bus |
//! | --- | --- | --- | --- |
//! | simulated | folders, see `dmashared`'s `devices::simulated` | a child process | private |
//! | vm | virtio-gpu and vkms on a real kernel, see `xtask` | the installed systemd service | the system's |
//!
//! A test takes a [`World`], asks it for [`Card`]s, makes a [`Buffer`] or a [`Source`] fence, has
//! [`Actor`]s (other processes, of other users where the machine has them) do things with them,
//! unplugs, and looks at what the actors, the [`Bus`] and the kernel say. It waits for events, with
//! bounds; it never sleeps and hopes.
//!
//! The program `dmashare-scenarios` is made of it. Every program of this package calls
//! [`actor::take_part`] first, since it may be run as an actor.

pub mod actor;
mod buffer;
pub mod bus;
mod card;
pub mod clock;
pub mod demo;
pub mod desktop;
mod heap;
pub mod hostile;
mod kernel_log;
pub mod kernel_objects;
pub mod process;
pub mod runner;
pub mod scenario;
mod source;
pub mod uevents;
mod world;

pub use actor::{Actor, User};
pub use buffer::Buffer;
pub use bus::Bus;
pub use card::{Card, Role};
pub use heap::Heap;
pub use kernel_log::KernelLog;
pub use process::Process;
pub use source::Source;
pub use world::{BOUND, Backend, Machine, NoUdevd, Unplug, Watched, World};
