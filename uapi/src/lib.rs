//! Safe, thin wrappers over the kernel interfaces that dmashare uses: the only crate of the
//! workspace with ioctls.
//!
//! | module | what the kernel calls it |
//! | --- | --- |
//! | [`fdkind`] | what a file descriptor from a stranger is, found out without blocking |
//! | [`dma_buf`], [`udmabuf`], [`dma_heap`] | buffers, and where ones that belong to no GPU come from |
//! | [`sync_file`], [`sw_sync`], [`vgem`], [`syncobj`] | fences, and the three ways to make one |
//! | [`drm_node`], [`dumb`], [`gem`] | GPUs, as far as the broker needs one |
//! | [`uevent`], [`wedged`] | what the kernel says about devices that come and go, and that hang |
//! | [`pci_slot`], [`thunderbolt`] | what goes with a GPU when it is taken out, and what it is plugged into |
//! | [`mapping`], [`memfd`], [`futex`] | memory that is taken back, or shared for reading |
//! | [`unix_socket`] | what the other end of a socket has not received |
//! | [`pidfd`], [`process`] | who is at the other end of a socket, and whether we are still ourselves |
//! | [`foreign_fd`] | descriptors of another process |
//! | `sim` (feature `simulate`) | stand-ins for machines without any of these |
//!
//! # Conventions
//!
//! - `BorrowedFd` (or `impl AsFd`) looks, `OwnedFd` gives away. Nothing is duplicated unless the
//!   documentation says so. Every descriptor made here is close-on-exec.
//! - Errors are the kernel's errno as [`std::io::Error`]; a function lists those that its caller
//!   can do something about.
//! - A call that a signal interrupts is made again, with the time that is left.
//! - Temporary handles (GEM, PRIME, syncobj) are closed by `Drop`.

#![cfg(target_os = "linux")]

pub mod dma_buf;
pub mod dma_heap;
pub mod drm_node;
pub mod dumb;
pub mod fdkind;
pub mod foreign_fd;
pub mod futex;
pub mod gem;
mod guard_pool;
mod ioctl;
pub mod mapping;
pub mod memfd;
pub mod pci_slot;
pub mod pidfd;
mod poll;
mod proc_fd;
pub mod process;
pub mod sigbus;
#[cfg(feature = "simulate")]
pub mod sim;
mod stat;
pub mod sw_sync;
pub mod sync_file;
pub mod syncobj;
pub mod thunderbolt;
pub mod udmabuf;
pub mod uevent;
pub mod unix_socket;
pub mod vgem;
pub mod wedged;
