//! The wrappers on the kernel's real objects. What a machine lacks is skipped, and said so.
//!
//! Run as root, where the nodes are. Every test also counts this process's descriptors, so they
//! run one at a time. Two are only run where asked for: `DMASHARE_EXPENDABLE_CARD=/dev/dri/cardN`
//! allows the removal of that PCI card, and `DMASHARE_UEVENT_FLOOD=1` a flood of uevents.

mod buffers;
mod common;
mod drm_nodes;
mod guards;
mod implicit_fences;
mod removal;
mod sync_files;
mod syncobjs;
mod uevents;
