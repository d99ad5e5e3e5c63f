//! What the broker asks the kernel about other people's file descriptors: on a real machine, and on
//! a simulated one. A descriptor of a client is looked at before it is used, and never in a way that
//! its owner could block.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use dmashare_proto::{ErrorCode, WireError, message};
use dmashare_uapi::dma_buf::{self, Access};
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::sync_file::{self, FenceInfo, Status};

use crate::devices::{DeviceDesc, NodeId};

mod config_space;
#[cfg(feature = "simulate")]
mod simulated;
pub mod unit;

/// The machine that the broker runs on.
#[derive(Clone, Debug)]
pub enum Machine {
    /// Linux, with DRM devices or without.
    Real,
    /// Files and eventfds that stand for devices and fences; the folder is where they live.
    #[cfg(feature = "simulate")]
    Simulated(PathBuf),
}

/// A dma-buf that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmaBuf {
    /// Its identity.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Who made it, by the kernel's name.
    pub exporter: String,
}

/// A sync_file of what is pending in a buffer's reservation object, and its fences.
pub type Implicit = (OwnedFd, Vec<FenceInfo>);

impl Machine {
    /// The DRM node that `fd` is an open file of.
    ///
    /// # Errors
    /// `WRONG_FD`.
    pub fn node(&self, fd: BorrowedFd<'_>) -> Result<NodeId, WireError> {
        match self {
            Self::Real => match look(fd)? {
                FdKind::DrmNode(node) => Ok(NodeId(node.major.into(), node.minor.into())),
                other => Err(wrong("a DRM node", &other)),
            },
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => simulated::node(fd),
        }
    }

    /// The dma-buf that `fd` is.
    ///
    /// # Errors
    /// `WRONG_FD`.
    pub fn dma_buf(&self, fd: BorrowedFd<'_>) -> Result<DmaBuf, WireError> {
        match self {
            Self::Real => match look(fd)? {
                FdKind::DmaBuf(id) => {
                    let exporter = dma_buf::exporter_name(fd).map_err(|error| internal(&error))?;
                    Ok(DmaBuf { inode: id.inode, size: id.size, exporter })
                }
                other => Err(wrong("a dma-buf", &other)),
            },
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => simulated::dma_buf(fd),
        }
    }

    /// How the sync_file `fd` stands.
    ///
    /// # Errors
    /// `WRONG_FD`.
    pub fn source_fence(&self, fd: BorrowedFd<'_>) -> Result<Status, WireError> {
        match self {
            Self::Real => match look(fd)? {
                FdKind::SyncFile => self.fence_status(fd).map_err(|error| internal(&error)),
                other => Err(wrong("a sync_file", &other)),
            },
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => simulated::fence(fd),
        }
    }

    /// How a fence stands that is known to be one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fence_status(&self, fd: BorrowedFd<'_>) -> io::Result<Status> {
        match self {
            Self::Real => sync_file::status(fd),
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => dmashare_uapi::sim::status(fd),
        }
    }

    /// What is pending in a buffer's reservation object; `None` where nothing is.
    ///
    /// # Errors
    /// The kernel's: it is older than 6.0, or out of descriptors.
    pub fn implicit(&self, dma_buf: BorrowedFd<'_>) -> io::Result<Option<Implicit>> {
        match self {
            Self::Real => {
                let fence = dma_buf::export_sync_file(dma_buf, Access::Write)?;
                let mut info = sync_file::info(std::os::fd::AsFd::as_fd(&fence))?;
                info.fences.retain(|fence| fence.status == Status::Pending);
                Ok((!info.fences.is_empty()).then_some((fence, info.fences)))
            }
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => Ok(None),
        }
    }

    /// Puts a fence into a buffer's reservation object.
    ///
    /// # Errors
    /// `UNSUPPORTED` before Linux 6.0 and for simulated buffers; `INTERNAL`.
    pub fn attach(
        &self,
        dma_buf: BorrowedFd<'_>,
        fence: BorrowedFd<'_>,
        access: message::Access,
    ) -> Result<(), WireError> {
        let access = match access {
            message::Access::Read => Access::Read,
            message::Access::Write => Access::Write,
        };
        let result = match self {
            Self::Real => dma_buf::import_sync_file(dma_buf, access, fence),
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        };
        result.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTTY) => WireError::new(
                ErrorCode::UNSUPPORTED,
                "this kernel puts no fence into a buffer (DMA_BUF_IOCTL_IMPORT_SYNC_FILE, Linux 6.0)",
            ),
            _ => internal(&error),
        })
    }

    /// Whether any DRM node of a device is still there.
    #[must_use]
    pub fn is_there(&self, desc: &DeviceDesc) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let born = std::fs::metadata(&desc.syspath).map(|folder| folder.ino());
        if desc.birth != 0 && born.is_ok_and(|born| born != desc.birth) {
            return false;
        }
        match self {
            Self::Real => desc
                .nodes
                .iter()
                .any(|node| PathBuf::from(format!("/sys{}", node.devpath)).exists()),
            #[cfg(feature = "simulate")]
            Self::Simulated(_) => desc.syspath.exists(),
        }
    }

    /// Whether a device does not answer on its bus any more, though nothing may have told of that;
    /// `None` where it is on none that can be asked. May wait for the device to be resumed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has_vanished(&self, desc: &DeviceDesc) -> io::Result<Option<bool>> {
        // The folder of a simulated device has such a file too.
        if desc.pci.is_empty() { Ok(None) } else { config_space::is_all_ones(&desc.syspath) }
    }

    /// Whether CPU access to buffers wants DMA_BUF_IOCTL_SYNC.
    #[must_use]
    pub fn cpu_sync(&self) -> bool {
        matches!(self, Self::Real)
    }
}

fn look(fd: BorrowedFd<'_>) -> Result<FdKind, WireError> {
    classify(fd).map_err(|error| internal(&error))
}

fn internal(error: &io::Error) -> WireError {
    WireError::new(
        ErrorCode::INTERNAL,
        format!("the kernel refused to tell about a file descriptor: {error}"),
    )
    .errno(error)
}

fn wrong(wanted: &str, found: &impl std::fmt::Display) -> WireError {
    WireError::new(
        ErrorCode::WRONG_FD,
        format!("{wanted} is needed; the file descriptor is {found}"),
    )
}
