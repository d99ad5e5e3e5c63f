//! What a file descriptor is, decided **without ever blocking**, whoever made it.
//!
//! A client may pass a file of a FUSE file system that it serves itself, and never answer. So
//! nothing is read, sought, or stat'ed in a way that asks the server before the kind is known:
//!
//! 1. `fcntl(F_GETFL)`: an O_PATH descriptor is only a name;
//! 2. `statx` with AT_STATX_DONT_SYNC: type, device and inode from the kernel's cache;
//! 3. /proc/self/fd: an anonymous inode's link has no leading slash, which a path always has;
//! 4. a dma-buf's link does have one (`/dmabuf:NAME`), and can be forged with a file at the root of
//!    a mount out of our reach. So the first dma-buf is recognised by its fdinfo, which only the
//!    dma-buf code prints, and its file system's device number is remembered: every later one is
//!    known by that number, which no other file system can have. `fstatfs`, harmless by then,
//!    must agree.
//!
//! Needs /proc, also inside a sandbox.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::fstatfs;

use crate::dma_buf::{self, DmaBufId};
use crate::drm_node::DrmNode;
use crate::proc_fd;
use crate::stat::{self, Stat};

/// `f_type` of the dma-buf file system (include/uapi/linux/magic.h).
const DMA_BUF_MAGIC: i64 = 0x444d_4142;

/// The device number of the kernel's one dma-buf file system, once a dma-buf was seen.
static DMA_BUF_DEV: OnceLock<(u32, u32)> = OnceLock::new();

/// What a file descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FdKind {
    /// A dma-buf, and which one.
    DmaBuf(DmaBufId),
    /// A sync_file.
    SyncFile,
    /// A drm_syncobj.
    Syncobj,
    /// An open DRM or accelerator node.
    DrmNode(DrmNode),
    /// Nothing that the broker deals in.
    Other(OtherKind),
}

impl fmt::Display for FdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DmaBuf(id) => write!(f, "a dma-buf of {} bytes", id.size),
            Self::SyncFile => f.write_str("a sync_file"),
            Self::Syncobj => f.write_str("a drm_syncobj"),
            Self::DrmNode(node) => write!(f, "a DRM {} node", node.kind),
            Self::Other(kind) => kind.fmt(f),
        }
    }
}

/// What a descriptor is that is nothing for the broker: for a message that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherKind {
    /// A regular file.
    RegularFile,
    /// A directory.
    Directory,
    /// A pipe or FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A memfd.
    Memfd,
    /// An eventfd.
    Eventfd,
    /// A descriptor opened with O_PATH, which only names a file.
    Path,
    /// A character device that is not a DRM node.
    CharDevice {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice,
    /// Another of the kernel's anonymous files: a pidfd, an epoll, …
    Anonymous(String),
    /// None of these.
    Unknown,
}

impl fmt::Display for OtherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RegularFile => "a regular file",
            Self::Directory => "a directory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Memfd => "a memfd",
            Self::Eventfd => "an eventfd",
            Self::Path => "an O_PATH descriptor",
            Self::CharDevice { major, minor } => {
                return write!(f, "a character device ({major}:{minor}) that is not a DRM node");
            }
            Self::BlockDevice => "a block device",
            Self::Anonymous(name) => return write!(f, "an anonymous file ({name})"),
            Self::Unknown => "a file of unknown kind",
        })
    }
}

/// Says what `fd` is. Borrows it, changes nothing on it (a dma-buf's file position apart, which
/// has no meaning), and never waits for anybody.
///
/// Errors are those of a broken environment: EBADF, ENOENT without /proc, EMFILE.
pub fn classify(fd: BorrowedFd<'_>) -> io::Result<FdKind> {
    if fcntl(fd, FcntlArg::F_GETFL)? & libc::O_PATH != 0 {
        return Ok(FdKind::Other(OtherKind::Path));
    }
    // An error is the file system's own (FUSE hides its files from other users, a dead one fails):
    // none of the kinds that are wanted has one.
    let Ok(stat) = stat::stat(fd) else { return Ok(FdKind::Other(OtherKind::Unknown)) };
    if DMA_BUF_DEV.get() == Some(&stat.dev) {
        return known_dma_buf(fd, &stat);
    }
    let other = match stat.file_type {
        libc::S_IFCHR => {
            let (major, minor) = stat.rdev;
            return Ok(match DrmNode::from_rdev(major, minor) {
                Some(node) => FdKind::DrmNode(node),
                None => FdKind::Other(OtherKind::CharDevice { major, minor }),
            });
        }
        libc::S_IFDIR => OtherKind::Directory,
        libc::S_IFIFO => OtherKind::Pipe,
        libc::S_IFSOCK => OtherKind::Socket,
        libc::S_IFBLK => OtherKind::BlockDevice,
        // Anonymous inodes have type 0, and from some kernels on that of a regular file.
        file_type => return by_link(fd, &stat, file_type),
    };
    Ok(FdKind::Other(other))
}

fn by_link(fd: BorrowedFd<'_>, stat: &Stat, file_type: u32) -> io::Result<FdKind> {
    let link = proc_fd::link(fd)?;
    let link = link.as_bytes();
    if let Some(name) = link.strip_prefix(b"anon_inode:") {
        return Ok(match name {
            b"sync_file" => FdKind::SyncFile,
            b"syncobj_file" => FdKind::Syncobj,
            b"[eventfd]" => FdKind::Other(OtherKind::Eventfd),
            _ => FdKind::Other(OtherKind::Anonymous(
                String::from_utf8_lossy(name).trim_matches(['[', ']']).to_owned(),
            )),
        });
    }
    if link.starts_with(b"/dmabuf:") && has_dma_buf_info(fd)? {
        // Another thread may have been first, with the same number: there is one file system.
        DMA_BUF_DEV.get_or_init(|| stat.dev);
        return known_dma_buf(fd, stat);
    }
    // Only memory files have seals; asking a FUSE file is answered by the kernel with EINVAL.
    if link.starts_with(b"/memfd:") && fcntl(fd, FcntlArg::F_GET_SEALS).is_ok() {
        return Ok(FdKind::Other(OtherKind::Memfd));
    }
    Ok(FdKind::Other(match file_type {
        libc::S_IFREG => OtherKind::RegularFile,
        _ if !link.starts_with(b"/") => {
            OtherKind::Anonymous(String::from_utf8_lossy(link).into_owned())
        }
        _ => OtherKind::Unknown,
    }))
}

fn has_dma_buf_info(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let info = proc_fd::info(fd)?;
    Ok(proc_fd::field(&info, "exp_name").is_some() && proc_fd::field(&info, "size").is_some())
}

fn known_dma_buf(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<FdKind> {
    #[allow(clippy::useless_conversion, reason = "the type of f_type differs between targets")]
    let magic = i64::from(fstatfs(fd)?.filesystem_type().0);
    if magic != DMA_BUF_MAGIC {
        return Ok(FdKind::Other(OtherKind::Unknown));
    }
    Ok(FdKind::DmaBuf(DmaBufId { inode: stat.ino, size: dma_buf::size(fd)? }))
}
