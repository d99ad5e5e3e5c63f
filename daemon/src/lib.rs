//! `dmashared`: brokers dma-bufs and fences between processes on different GPUs, so that pulling an
//! external GPU is an event and not a crash. ARCHITECTURE.md has the map.

pub mod bus;
pub mod catalogue;
pub mod clock;
pub mod config;
pub mod core;
pub mod counters;
pub mod devices;
pub mod eject;
pub mod gate;
pub mod guard;
pub mod heap;
mod helpers;
mod id_map;
mod keeper;
pub mod kernel;
pub mod reactor;
pub mod shell;
mod slot;
pub mod state_page;
mod sync;
pub mod timeline;
pub mod view;
