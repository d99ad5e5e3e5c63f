//! The scan: every descriptor and every mapping of a process, as fast as /proc gives them.
//!
//! A descriptor costs one `statx` through its link in /proc, which says by numbers what it is, whatever
//! its path, its mount namespace or its name; it never asks a file's server (FUSE), and allocates nothing.
//! Only anonymous inodes, of which all kinds share one number, need their link's text. A file system that
//! was met once is remembered as the dma-bufs' own or not: a mounted file system keeps its number.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::fs::{openat, readlinkat_raw, statx};
use rustix::io::Errno;

use super::fdinfo::{self, BufferInfo, DrmInfo};
use super::maps::Mapped;
use super::seen::{OpenNode, Seen};
use super::target::Target;

/// Entries of a folder that are read at once, in bytes.
const ENTRIES: usize = 32 * 1024;
/// /proc/PID/maps comes a page at a time, and a path may be as long.
const LINES: usize = 16 * 1024;
/// Longer than the link of any anonymous inode that is looked for.
const LINK: usize = 64;

/// A worker, with what it has learnt of this machine.
pub(super) struct Scanner<'a> {
    entries: Box<[MaybeUninit<u8>]>,
    lines: Box<[u8]>,
    eyes: Eyes<'a>,
}

struct Eyes<'a> {
    target: &'a Target,
    /// `st_dev` of the kernel's one file system of dma-bufs, once one was seen.
    dma_bufs: Option<u64>,
    /// `st_dev` of others.
    ordinary: HashSet<u64>,
    /// What is known of dma-bufs by their inodes, which are never used again.
    buffers: HashMap<u64, BufferInfo>,
    /// Mapped files, by `st_dev` and inode: the node that one is, if it is any that is looked for.
    mapped: HashMap<(u64, u64), Option<usize>>,
    fds: u32,
}

/// What became of a process.
pub(super) enum Outcome {
    /// It has something.
    Seen(Seen),
    /// It has nothing, or is gone.
    Nothing,
    /// It may not be looked into.
    Unseen,
}

impl<'a> Scanner<'a> {
    pub fn new(target: &'a Target) -> Self {
        let eyes = Eyes {
            target,
            dma_bufs: None,
            ordinary: HashSet::new(),
            buffers: HashMap::new(),
            mapped: HashMap::new(),
            fds: 0,
        };
        let entries = vec![MaybeUninit::uninit(); ENTRIES].into_boxed_slice();
        Self { entries, lines: vec![0; LINES].into_boxed_slice(), eyes }
    }

    /// How many descriptors it has looked at, and the dma-bufs among them.
    pub fn into_findings(self) -> (u32, HashMap<u64, BufferInfo>) {
        (self.eyes.fds, self.eyes.buffers)
    }

    /// Looks into one process.
    pub fn process(&mut self, proc: BorrowedFd<'_>, pid: i32, name: &CStr) -> Outcome {
        let Ok(mut seen) = Seen::new(proc, pid, name) else { return Outcome::Nothing };
        let found = self.descriptors(&mut seen).and_then(|()| self.mappings(&mut seen));
        match found {
            Err(Errno::ACCESS | Errno::PERM) if seen.is_empty() => Outcome::Unseen,
            // What it had of them, if it has ended meanwhile.
            _ if seen.is_empty() => Outcome::Nothing,
            _ => Outcome::Seen(seen),
        }
    }

    fn descriptors(&mut self, seen: &mut Seen) -> Result<(), Errno> {
        let fds = open(seen, c"fd", OFlags::DIRECTORY)?;
        let mut entries = RawDir::new(&fds, &mut self.entries);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(fd) = number(name) {
                self.eyes.descriptor(&fds, name, fd, seen);
            }
        }
        Ok(())
    }

    fn mappings(&mut self, seen: &mut Seen) -> Result<(), Errno> {
        let maps = open(seen, c"maps", OFlags::empty())?;
        let mut kept = 0;
        loop {
            let read = rustix::io::read(&maps, &mut self.lines[kept..])?;
            if read == 0 {
                return Ok(());
            }
            let end = kept + read;
            let whole = self.lines[..end].iter().rposition(|&byte| byte == b'\n');
            let whole = whole.map_or(0, |at| at + 1);
            for line in self.lines[..whole].split(|&byte| byte == b'\n') {
                if let Some(mapped) = Mapped::parse(line) {
                    self.eyes.mapping(&mapped, seen);
                }
            }
            // A line that does not fit is none that is looked for.
            kept = if end - whole == LINES { 0 } else { end - whole };
            self.lines.copy_within(end - kept..end, 0);
        }
    }
}

impl Eyes<'_> {
    fn descriptor(&mut self, fds: &OwnedFd, name: &CStr, fd: RawFd, seen: &mut Seen) {
        self.fds += 1;
        // A file that was closed meanwhile; or one of FUSE, of another user, which is no node here.
        let Ok(stat) = statx(
            fds,
            name,
            AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT,
            StatxFlags::TYPE | StatxFlags::INO,
        ) else {
            return;
        };
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::CharacterDevice => {
                let rdev = (stat.stx_rdev_major, stat.stx_rdev_minor);
                if let Some(thing) = self.target.by_number(rdev) {
                    node(thing, fd, seen);
                }
            }
            // Anonymous inodes and dma-bufs have no type, and from some kernels on that of a file.
            FileType::RegularFile | FileType::Unknown => self.file(fds, name, fd, &stat, seen),
            _ => {}
        }
    }

    fn file(&mut self, fds: &OwnedFd, name: &CStr, fd: RawFd, stat: &Statx, seen: &mut Seen) {
        let (dev, ino) = (libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        if dev == self.target.anonymous {
            let mut link = [MaybeUninit::<u8>::uninit(); LINK];
            let Ok((link, _)) = readlinkat_raw(fds, name, &mut link) else { return };
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
        }
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

    fn mapping(&mut self, mapped: &Mapped<'_>, seen: &mut Seen) {
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
        if dev == self.target.memfds || dev == self.target.anonymous {
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
            Ok(_) | Err(Errno::PERM | Errno::ACCESS) => None,
            // It is not mapped any more.
            Err(_) => return None,
        };
        self.mapped.insert((dev, ino), found);
        found
    }
}

fn open(seen: &Seen, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(&seen.dir, name, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())
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

/// A name that is a number; `.` and `..` are not.
pub(super) fn number(name: &CStr) -> Option<i32> {
    let digits = name.to_bytes();
    digits.iter().try_fold(0i32, |sum, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        sum.checked_mul(10)?.checked_add(i32::try_from(digit).ok()?)
    })
}

/// # Errors
/// /proc cannot be opened.
pub(super) fn proc_folder() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc", flags, Mode::empty())?)
}

/// All processes that there are.
///
/// # Errors
/// /proc cannot be read.
pub(super) fn processes(proc: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    let mut buffer = vec![MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(proc.as_fd(), &mut buffer);
    let mut pids = Vec::new();
    while let Some(entry) = entries.next() {
        pids.extend(number(entry?.file_name()));
    }
    Ok(pids)
}
