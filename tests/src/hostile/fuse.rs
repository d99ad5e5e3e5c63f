//! A file system whose server answers what it takes to open a file, and then nothing: not a stat,
//! not a read, and not the FLUSH that `close` sends and waits for. (include/uapi/linux/fuse.h)
//!
//! This process is spared: its own closing is answered. Whoever else closes such a file waits until
//! the file system ends.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
/// A request's header.
const HEADER: usize = 40;

/// Who was left waiting for which request.
#[derive(Default)]
struct Waiting {
    asked: Mutex<Vec<(u32, u32)>>,
    more: Condvar,
}

/// The file system. Dropped, it ends, and with it every request that waits.
pub struct Fuse {
    dir: TempDir,
    waiting: Arc<Waiting>,
    server: Option<(PipeWriter, JoinHandle<()>)>,
}

impl Fuse {
    /// Mounts it; needs root and /dev/fuse. Other users may know what its files are, or not even that.
    ///
    /// # Errors
    /// What is missing, as a reason to skip a test.
    pub fn mount(open_to_all: bool) -> Result<Self, String> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|error| format!("/dev/fuse: {error}"))?;
        let dir = TempDir::new().map_err(|error| format!("a folder: {error}"))?;
        let others = if open_to_all { ",allow_other" } else { "" };
        let fd = device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40755,user_id=0,group_id=0{others}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("x"), dir.path(), Some("fuse"), flags, Some(&*options))
            .map_err(|error| format!("mounting FUSE: {error}"))?;
        let waiting = Arc::<Waiting>::default();
        let (stopped, stop) = std::io::pipe().map_err(|error| format!("a pipe: {error}"))?;
        let server = std::thread::spawn({
            let waiting = Arc::clone(&waiting);
            move || serve(device, &waiting, stopped.as_fd())
        });
        Ok(Self { dir, waiting, server: Some((stop, server)) })
    }

    /// Opens a file, which may have any name. To be closed again before a process is started: that
    /// one would wait when it closes its copy.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().read(true).open(self.dir.path().join(name))?.into())
    }

    /// Waits until a process has been left waiting; gives the requests that it waits for.
    #[must_use]
    pub fn asked_by(&self, pid: i32, patience: Duration) -> Vec<&'static str> {
        let asked = self.waiting.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody =
            |asked: &mut Vec<(u32, u32)>| !asked.iter().any(|(asker, _)| belongs_to(*asker, pid));
        let (asked, _) = self
            .waiting
            .more
            .wait_timeout_while(asked, patience, nobody)
            .unwrap_or_else(PoisonError::into_inner);
        asked
            .iter()
            .filter(|(asker, _)| belongs_to(*asker, pid))
            .map(|(_, opcode)| name_of(*opcode))
            .collect()
    }
}

/// The name of a request, where it matters here.
fn name_of(opcode: u32) -> &'static str {
    match opcode {
        3 => "GETATTR",
        15 => "READ",
        17 => "STATFS",
        FLUSH => "FLUSH",
        _ => "another",
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Detached, it is out of reach; a name that is still mounted would keep the folder.
        if let Err(error) = umount2(self.dir.path(), MntFlags::MNT_DETACH) {
            eprintln!("unmounting FUSE: {error}");
        }
        if let Some((stop, server)) = self.server.take() {
            drop(stop);
            if server.join().is_err() {
                eprintln!("the FUSE server panicked");
            }
        }
    }
}

/// Whether a thread is one of a process.
fn belongs_to(thread: u32, pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/task/{thread}")).exists()
}

fn serve(mut fuse: File, waiting: &Waiting, stop: std::os::fd::BorrowedFd<'_>) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut request = vec![0; 1 << 17];
    loop {
        let mut ready =
            [PollFd::new(fuse.as_fd(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) if ready[1].any() != Some(false) => return,
            Ok(_) => {}
        }
        let Ok(HEADER..) = fuse.read(&mut request) else { return };
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| request[at + i]));
        let (opcode, asker) = (word(4), word(32));
        let words: &[u32] = match opcode {
            // Version 7.31, 4 KiB writes.
            INIT => &[7, 31, 0, 0, 0, 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            // Node 2, nothing cached, a regular file of mode 0644 with one link.
            LOOKUP => &[
                2, 0, 0, 0, 0, 0, 0, 0, 0, 0, // node, generation, validity
                2, 0, 4096, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // inode, size, blocks, times
                0o100_644, 1, 0, 0, 0, 4096, 0,
            ],
            OPEN => &[0; 4],
            FLUSH if belongs_to(asker, own) => &[],
            _ => {
                waiting.asked.lock().unwrap_or_else(PoisonError::into_inner).push((asker, opcode));
                waiting.more.notify_all();
                continue;
            }
        };
        let mut reply = (16 + 4 * words.len() as u32).to_ne_bytes().to_vec();
        reply.extend(0_i32.to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        if let Err(error) = fuse.write_all(&reply) {
            // A request that was interrupted is not there any more.
            eprintln!("FUSE: an answer came too late: {error}");
        }
    }
}
