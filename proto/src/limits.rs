//! Every bound of the wire. A peer that passes one is answered with an error that names it, or is
//! disconnected where its stream can no longer be trusted.

/// Version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;
/// Longest datagram, header included, in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Most file descriptors beside one datagram: a DRM node and four planes, with room for later.
pub const MAX_FDS: usize = 8;
/// Most planes of a buffer (as in `drm_mode_fb_cmd2`).
pub const MAX_PLANES: usize = 4;
const _: () = assert!(MAX_PLANES < MAX_FDS, "a node and all planes go beside one datagram");
/// Longest name that a client may give itself, in bytes of UTF-8.
pub const MAX_NAME: usize = 64;
/// Longest reason of an inhibitor, in bytes of UTF-8.
pub const MAX_WHY: usize = 128;
/// Widest and highest buffer, in pixels.
pub const MAX_EXTENT: u32 = 1 << 16;
/// Longest life of a token, in milliseconds (one day).
pub const MAX_TOKEN_TTL_MS: u32 = 24 * 60 * 60 * 1000;
/// Highest point of a timeline. Half of what the kernel counts: beyond it, "later" is no longer clear
/// to whoever compares by difference.
pub const MAX_POINT: u64 = i64::MAX as u64;
