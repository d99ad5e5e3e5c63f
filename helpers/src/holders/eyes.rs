//! What a descriptor or a mapping is, seen by the kernel's numbers for it: no path, rename, mount namespace
//! or name that somebody chose misleads, no file's server (FUSE) is asked, and nothing is allocated.
//!
//! Each call into /proc costs, so a descriptor has one, where that can be:
//!
//! | of a process | first | then |
//! | --- | --- | --- |
//! | in another mount namespace | `statx` through the link | the link's text, of anonymous inodes alone, of which all kinds share one number |
//! | in that of process 1, or of ours | the link's text | `statx`, where the text is a path that was not seen to be a file's |
//!
//! A path there stands for what it stood for a moment ago, since only root could put a node in a file's
//! place; in a namespace of one's own anybody can mount one over a file. A file system that was met once is
//! remembered as the dma-bufs' own or not: a mounted one keeps its number.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, readlinkat_raw, statx};
use rustix::io::Errno;

use super::fdinfo::{self, BufferInfo, DrmInfo};
use super::maps::Mapped;
use super::seen::{OpenNode, Seen};
use super::target::Target;

/// Longer than the link of any anonymous inode that is looked for.
const LINK: usize = 64;
/// Paths that are longer are looked at each time.
const LONG_LINK: usize = 256;

/// What a worker has learnt of this machine.
pub(super) struct Eyes<'a> {
    target: &'a Target,
    /// `st_dev` of the kernel's one file system of dma-bufs, once one was seen.
    dma_bufs: Option<u64>,
    /// `st_dev` of others.
    ordinary: HashSet<u64>,
    /// Paths of files and folders in the host's mount namespace.
    plain: HashSet<Box<[u8]>>,
    /// What is known of dma-bufs by their inodes, which are never used again.
    pub buffers: HashMap<u64, BufferInfo>,
    /// Mapped files, by `st_dev` and inode: the node that one is, if it is any that is looked for.
    mapped: HashMap<(u64, u64), Option<usize>>,
    /// Whether mapped files themselves may be looked at.
    may_follow: bool,
    /// Descriptors that were looked at.
    pub fds: u32,
    /// Of them, those that could not be.
    pub refused: u32,
}

/// What a descriptor is.
#[derive(PartialEq, Eq)]
enum Kind {
    /// A file or folder of a file system that has no dma-bufs.
    Plain,
    /// Anything else.
    Special,
}

impl<'a> Eyes<'a> {
    pub fn new(target: &'a Target) -> Self {
        Self {
            target,
            dma_bufs: None,
            ordinary: HashSet::new(),
            plain: HashSet::new(),
            buffers: HashMap::new(),
            mapped: HashMap::new(),
            may_follow: true,
            fds: 0,
            refused: 0,
        }
    }

    /// Looks at a descriptor. Whether there is one of that number.
    pub fn descriptor(&mut self, fds: &OwnedFd, name: &CStr, fd: RawFd, seen: &mut Seen) -> bool {
        let found = if seen.is_hosts {
            self.by_link(fds, name, fd, seen)
        } else {
            self.by_number(fds, name, fd, seen).map(drop)
        };
        if found == Err(Errno::NOENT) {
            return false;
        }
        self.fds += 1;
        // Of FUSE, of another user, it is no node; else nobody may look into the process.
        self.refused += u32::from(found.is_err());
        true
    }

    /// The link's text first, which is enough for what has no path, and for a path that was seen to be that
    /// of a file.
    fn by_link(
        &mut self,
        fds: &OwnedFd,
        name: &CStr,
        fd: RawFd,
        seen: &mut Seen,
    ) -> Result<(), Errno> {
        let mut link = [MaybeUninit::<u8>::uninit(); LONG_LINK];
        let (link, rest) = readlinkat_raw(fds, name, &mut link)?;
        match &*link {
            b"anon_inode:sync_file" => seen.sync_files.push(fd),
            b"anon_inode:syncobj_file" => seen.syncobjs.push(fd),
            _ => {}
        }
        let is_path = link.starts_with(b"/");
        if is_path && !self.plain.contains(&*link) {
            let kind = self.by_number(fds, name, fd, seen)?;
            // A text that was cut off stands for many.
            if kind == Kind::Plain && !rest.is_empty() {
                self.plain.insert((&*link).into());
            }
        }
        Ok(())
    }

    fn by_number(
        &mut self,
        fds: &OwnedFd,
        name: &CStr,
        fd: RawFd,
        seen: &mut Seen,
    ) -> Result<Kind, Errno> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let stat = statx(fds, name, flags, StatxFlags::TYPE | StatxFlags::INO)?;
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::CharacterDevice => {
                let rdev = (stat.stx_rdev_major, stat.stx_rdev_minor);
                if let Some(thing) = self.target.by_number(rdev) {
                    node(thing, fd, seen);
                }
            }
            // Anonymous inodes and dma-bufs have no type, and from some kernels on that of a file.
            FileType::RegularFile | FileType::Unknown => {
                return Ok(self.file(fds, name, fd, &stat, seen));
            }
            FileType::Directory => return Ok(Kind::Plain),
            _ => {}
        }
        Ok(Kind::Special)
    }

    fn file(
        &mut self,
        fds: &OwnedFd,
        name: &CStr,
        fd: RawFd,
        stat: &Statx,
        seen: &mut Seen,
    ) -> Kind {
        let (dev, ino) = (libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        if dev == self.target.anonymous {
            let mut link = [MaybeUninit::<u8>::uninit(); LINK];
            let Ok((link, _)) = readlinkat_raw(fds, name, &mut link) else { return Kind::Special };
            match &*link {
                b"anon_inode:sync_file" => seen.sync_files.push(fd),
                b"anon_inode:syncobj_file" => seen.syncobjs.push(fd),
                _ => {}
            }
        } else if self.dma_bufs == Some(dev) {
            self.buffer(ino, fd, seen);
        } else {
            let known = self.target.has_simulated && self.simulated(dev, ino, fd, stat, seen);
            if !known && !self.ordinary.contains(&dev) {
                self.file_system(fds, name, fd, (dev, ino), seen);
            }
            if self.ordinary.contains(&dev) {
                return Kind::Plain;
            }
        }
        Kind::Special
    }

    /// A descriptor of a file system that is met for the first time. Its link alone could be that of a
    /// file with a dma-buf's name; only dma-bufs have their fdinfo.
    fn file_system(
        &mut self,
        fds: &OwnedFd,
        name: &CStr,
        fd: RawFd,
        (dev, ino): (u64, u64),
        seen: &mut Seen,
    ) {
        let mut link = [MaybeUninit::<u8>::uninit(); LINK];
        let Ok((link, _)) = readlinkat_raw(fds, name, &mut link) else { return };
        if !link.starts_with(b"/dmabuf:") {
            self.ordinary.insert(dev);
        } else if let Some(info) = info(seen, fd).as_deref().and_then(BufferInfo::parse) {
            self.dma_bufs = Some(dev);
            self.buffers.insert(ino, info);
            self.buffer(ino, fd, seen);
        }
    }

    fn buffer(&mut self, ino: u64, fd: RawFd, seen: &mut Seen) {
        seen.buffers.entry(ino).or_default().fds += 1;
        if !self.buffers.contains_key(&ino)
            && let Some(info) = info(seen, fd).as_deref().and_then(BufferInfo::parse)
        {
            self.buffers.insert(ino, info);
        }
    }

    fn simulated(&mut self, dev: u64, ino: u64, fd: RawFd, stat: &Statx, seen: &mut Seen) -> bool {
        if let Some(thing) = self.target.by_file(dev, ino) {
            node(thing, fd, seen);
        } else if self.target.is_simulated_buffer(dev, ino) {
            seen.buffers.entry(ino).or_default().fds += 1;
            let info = BufferInfo { size: stat.stx_size, exporter: String::new() };
            self.buffers.insert(ino, info);
        } else {
            return false;
        }
        true
    }

    /// Looks at a mapping of a file.
    pub fn mapping(&mut self, mapped: &Mapped<'_>, seen: &mut Seen) {
        let (dev, ino) = (mapped.dev, mapped.ino);
        // Another worker may know their file system already, so the name must do. It can only be had in
        // vain: a buffer that nobody knows is a guess.
        let is_buffer = match self.dma_bufs {
            Some(of) => of == dev,
            None => mapped.path.starts_with(b"/dmabuf:") && !self.ordinary.contains(&dev),
        };
        if is_buffer || self.target.is_simulated_buffer(dev, ino) {
            seen.buffers.entry(ino).or_default().mappings += 1;
        } else if let Some(thing) = self.mapped_node(mapped, seen) {
            seen.mapped.entry(thing).or_default().add(mapped.bytes());
        }
    }

    fn mapped_node(&mut self, mapped: &Mapped<'_>, seen: &Seen) -> Option<usize> {
        let (dev, ino) = (mapped.dev, mapped.ino);
        if let Some(thing) = self.target.by_file(dev, ino) {
            return Some(thing);
        }
        // Nobody can make a node in these.
        if dev == self.target.memfds || dev == self.target.anonymous || !self.may_follow {
            return None;
        }
        if let Some(&known) = self.mapped.get(&(dev, ino)) {
            return known;
        }
        // Of a node in another file system than ours, only the file itself tells. The kernel lets us
        // follow these links with CAP_CHECKPOINT_RESTORE alone.
        let path = format!("map_files/{}", mapped.name());
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = match statx(&seen.dir, path, flags, StatxFlags::TYPE) {
            Ok(stat)
                if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice =>
            {
                self.target.by_number((stat.stx_rdev_major, stat.stx_rdev_minor))
            }
            Ok(_) => None,
            Err(Errno::PERM) => {
                self.may_follow = false;
                return None;
            }
            // By something of this one process.
            Err(Errno::ACCESS) => None,
            // It is not mapped any more.
            Err(_) => return None,
        };
        self.mapped.insert((dev, ino), found);
        found
    }
}

fn info(seen: &Seen, fd: RawFd) -> Option<String> {
    seen.read(&format!("fdinfo/{fd}")).ok()
}

/// A name of a node is no hold of it.
fn node(thing: usize, fd: RawFd, seen: &mut Seen) {
    let at = Instant::now();
    // Closed meanwhile, if there is none.
    if let Some(info) = info(seen, fd).filter(|info| !fdinfo::is_path_only(info)) {
        seen.nodes.push(OpenNode { thing, fd, info: DrmInfo::parse(&info), at });
    }
}
