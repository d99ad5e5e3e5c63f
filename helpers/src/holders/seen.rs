//! What a scan has found of one process, before it is known whose everything is.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Instant;

use dmashare_uapi::pidfd;
use rustix::fs::{Mode, OFlags, openat, readlinkat_raw};

use super::fdinfo::DrmInfo;

/// A process with something that may be the device's.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its id.
    pub pid: i32,
    /// /proc/PID: of this process and no later one with its id.
    pub dir: OwnedFd,
    /// It is in a mount namespace of the host's.
    pub is_hosts: bool,
    /// Descriptors of nodes.
    pub nodes: Vec<OpenNode>,
    /// Mappings of nodes, by the nodes' place.
    pub mapped: BTreeMap<usize, Mappings>,
    /// dma-bufs, by inode.
    pub buffers: BTreeMap<u64, OpenBuffer>,
    /// Descriptors of sync_files.
    pub sync_files: Vec<RawFd>,
    /// Descriptors of drm_syncobjs.
    pub syncobjs: Vec<RawFd>,
}

/// A mount namespace, as the kernel calls it: `mnt:[4026531841]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountNamespace([u8; 32]);

impl MountNamespace {
    /// That of a process, by its folder in /proc; `None` if it may not be looked into.
    pub fn of(dir: impl AsFd) -> Option<Self> {
        let mut text = [0; 32];
        readlinkat_raw(dir, c"ns/mnt", &mut text[..]).ok()?;
        Some(Self(text))
    }
}

/// A descriptor of a node.
#[derive(Debug)]
pub(super) struct OpenNode {
    /// Which: a place in [`super::target::Target::things`].
    pub thing: usize,
    /// The descriptor.
    pub fd: RawFd,
    /// What its driver says.
    pub info: DrmInfo,
    /// When that was.
    pub at: Instant,
}

/// Mappings of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mappings {
    /// How many.
    pub count: u32,
    /// Bytes in all.
    pub bytes: u64,
}

impl Mappings {
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// How a dma-buf is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OpenBuffer {
    /// Descriptors.
    pub fds: u32,
    /// Mappings.
    pub mappings: u32,
}

impl Seen {
    /// # Errors
    /// The process is gone.
    pub fn new(
        proc: impl AsFd,
        pid: i32,
        name: &CStr,
        hosts: &[MountNamespace],
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(proc, name, flags, Mode::empty())?;
        Ok(Self {
            pid,
            is_hosts: !hosts.is_empty()
                && MountNamespace::of(&dir).is_some_and(|own| hosts.contains(&own)),
            dir,
            nodes: Vec::new(),
            mapped: BTreeMap::new(),
            buffers: BTreeMap::new(),
            sync_files: Vec::new(),
            syncobjs: Vec::new(),
        })
    }

    /// Whether there is nothing to look into further.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.mapped.is_empty()
            && self.buffers.is_empty()
            && self.sync_files.is_empty()
            && self.syncobjs.is_empty()
    }

    /// A handle on the process, which is the one that was looked into.
    ///
    /// # Errors
    /// It is gone.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        let pidfd = pidfd::open(self.pid)?;
        // As long as the folder has files, nobody else has the number.
        self.open("stat")?;
        Ok(pidfd)
    }

    /// A file of its folder, as text; bytes that are none are replaced.
    ///
    /// # Errors
    /// The process is gone, or may not be looked into.
    pub fn read(&self, name: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file of its folder, for reading.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(&self.dir, name, flags, Mode::empty())?.into())
    }
}
