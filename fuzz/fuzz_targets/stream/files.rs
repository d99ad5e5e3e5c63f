//! What clients can pass.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dmashare_uapi::sim::{self, SimFence};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::client::Client;

fn open(path: &Path) -> OwnedFd {
    File::open(path).expect("it is there").into()
}

pub struct Files {
    devices: PathBuf,
    /// Open since before a card goes.
    nodes: [OwnedFd; 2],
    fences: Vec<OwnedFd>,
    buffer: Option<OwnedFd>,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        let devices = folder.join("devices");
        let node = |device: &str| devices.join(device).join("card0");
        let nodes = ["egpu", "igpu"].map(|device| open(&node(device)));
        Self { devices, nodes, fences: Vec::new(), buffer: None }
    }

    /// A descriptor of a kind.
    pub fn get(&mut self, kind: u8, client: &Client) -> OwnedFd {
        let node = |at: usize| self.nodes[at].try_clone().expect("a descriptor");
        match kind % 16 {
            0 => node(0),
            1 => node(1),
            2 => sim::buffer(16 << 20).expect("a buffer"),
            3 => sim::buffer(1).expect("a buffer"),
            4 => self.fence(None),
            5 => self.fence(Some(Ok(()))),
            6 => self.fence(Some(Err(5))),
            7 => nix::unistd::pipe().expect("a pipe").0,
            8 => nix::unistd::pipe().expect("a pipe").1,
            9 => std::os::unix::net::UnixStream::pair().expect("sockets").0.into(),
            10 => open(Path::new("/dev/null")),
            11 => client.socket(),
            12 => {
                let path = fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(nix::libc::O_PATH)
                    .open(self.devices.join("igpu/card0"));
                path.expect("it is there").into()
            }
            13 => open(&self.devices),
            14 => {
                let buffer = || sim::buffer(8192).expect("a buffer");
                self.buffer.get_or_insert_with(buffer).try_clone().expect("a descriptor")
            }
            // Not of the kind that stands for a dma-buf.
            _ => memfd_create(c"something", MFdFlags::MFD_CLOEXEC).expect("a memfd"),
        }
    }

    fn fence(&mut self, end: Option<Result<(), i32>>) -> OwnedFd {
        let fence = SimFence::new().expect("a fence");
        if let Some(result) = end {
            sim::signal(fence.as_fd(), result).expect("it can end");
        }
        self.fences.push(fence.try_clone().expect("a descriptor"));
        fence
    }

    /// Ends one of those that were passed, if it has not ended.
    pub fn end(&self, n: u8, result: Result<(), i32>) {
        let Some(at) = usize::from(n).checked_rem(self.fences.len()) else { return };
        sim::signal(self.fences[at].as_fd(), result).expect("it can end");
    }

    pub fn end_all(&self) {
        for fence in &self.fences {
            sim::signal(fence.as_fd(), Ok(())).expect("it can end");
        }
    }
}
