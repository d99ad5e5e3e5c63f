//! Classifying descriptors that need no GPU, and that a FUSE server cannot delay it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dmashare_uapi::fdkind::{FdKind, OtherKind, classify};
use dmashare_uapi::memfd::ReadOnlyPage;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags};

fn kind(fd: impl AsFd) -> FdKind {
    classify(fd.as_fd()).unwrap()
}

#[track_caller]
fn assert_other(fd: impl AsFd, expected: OtherKind, text: &str) {
    let kind = kind(fd);
    assert_eq!(kind.to_string(), text);
    assert_eq!(kind, FdKind::Other(expected));
}

#[test]
fn what_anybody_can_make() {
    let file = tempfile::tempfile().unwrap();
    assert_other(file, OtherKind::RegularFile, "a regular file");
    let (reader, _writer) = std::io::pipe().unwrap();
    assert_other(reader, OtherKind::Pipe, "a pipe");
    let (socket, _peer) = UnixStream::pair().unwrap();
    assert_other(socket, OtherKind::Socket, "a socket");
    assert_other(File::open("/").unwrap(), OtherKind::Directory, "a directory");
    let eventfd = nix::sys::eventfd::EventFd::new().unwrap();
    assert_other(eventfd, OtherKind::Eventfd, "an eventfd");
    let memfd = nix::sys::memfd::memfd_create(c"x", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    assert_other(memfd.unwrap(), OtherKind::Memfd, "a memfd");
    let pidfd = dmashare_uapi::pidfd::open(std::process::id() as i32).unwrap();
    assert!(matches!(kind(pidfd), FdKind::Other(OtherKind::Anonymous(_))));
    let null = OtherKind::CharDevice { major: 1, minor: 3 };
    let text = "a character device (1:3) that is not a DRM node";
    assert_other(File::open("/dev/null").unwrap(), null, text);
}

#[test]
fn a_name_is_not_a_file() {
    let path = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open("/dev/null");
    assert_other(path.unwrap(), OtherKind::Path, "an O_PATH descriptor");
}

#[test]
fn names_that_pretend() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["anon_inode:sync_file", "dmabuf:x", "memfd:x"] {
        let file = File::create(dir.path().join(name)).unwrap();
        assert_other(file, OtherKind::RegularFile, "a regular file");
    }
}

/// A file at the root of a mount out of reach has the link that a dma-buf has.
#[test]
fn a_forged_dma_buf_link() {
    let dir = tempfile::tempdir().unwrap();
    if let Err(e) = mount(Some("x"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>) {
        println!("skipped: mounting a tmpfs: {e}");
        return;
    }
    let open = |name| File::create(dir.path().join(name)).unwrap();
    let files = ["dmabuf:", "dmabuf:x", "memfd:dmashare-sim-dmabuf (deleted)"].map(open);
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    let link = std::fs::read_link(format!("/proc/self/fd/{}", files[1].as_raw_fd())).unwrap();
    assert_eq!(link, Path::new("/dmabuf:x"), "the attack itself");
    assert_other(&files[0], OtherKind::RegularFile, "a regular file");
    assert_other(&files[1], OtherKind::RegularFile, "a regular file");
    // A tmpfs file has seals, as a memfd has: told apart by nothing, and of no consequence.
    assert!(matches!(kind(&files[2]), FdKind::Other(_)));
}

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const STATFS: u32 = 17;
const INIT: u32 = 26;

/// A file system whose server answers what it takes to open a file, and then nothing that asks
/// about it (include/uapi/linux/fuse.h). Dropped, it ends, and with it every request that hangs.
struct Fuse {
    asked: Arc<Mutex<Vec<u32>>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    fn start(device: File) -> Self {
        let (asked, stop) = (Arc::default(), Arc::default());
        let server = std::thread::spawn({
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            move || serve(device, &asked, &stop)
        });
        Self { asked, stop, server: Some(server) }
    }

    fn asked(&self) -> Vec<u32> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            server.join().expect("the server");
        }
    }
}

fn serve(mut fuse: File, asked: &Mutex<Vec<u32>>, stop: &AtomicBool) {
    let mut request = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        let mut poll = [PollFd::new(fuse.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut poll, 20u8).unwrap_or(0) == 0 {
            continue;
        }
        let Ok(len) = fuse.read(&mut request) else { return };
        assert!(len >= 40);
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        asked.lock().unwrap().push(opcode);
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
            GETATTR | STATFS => continue,
            _ => &[],
        };
        let error = if words.is_empty() { -nix::libc::ENOSYS } else { 0 };
        let mut reply = (16 + 4 * words.len() as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        // Fails for requests that were interrupted, or that want no answer.
        let _ignored = fuse.write(&reply);
    }
}

/// What `f` answers, if it does within a while.
fn within<T: Send + 'static>(
    wait: Duration,
    fd: &Arc<OwnedFd>,
    f: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let fd = Arc::clone(fd);
    std::thread::spawn(move || {
        // Nobody listens any more if it took too long.
        let _ignored = sender.send(f(fd.as_fd()));
    });
    receiver.recv_timeout(wait).ok()
}

#[test]
fn a_fuse_server_that_never_answers() {
    let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(device) => device,
        Err(e) => return println!("skipped: /dev/fuse: {e}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if let Err(e) = mount(Some("x"), dir.path(), Some("fuse"), flags, Some(&*options)) {
        return println!("skipped: mounting FUSE: {e}");
    }
    let fuse = Fuse::start(device);
    let open = |name: &str| OpenOptions::new().read(true).open(dir.path().join(name));
    let plain: Arc<OwnedFd> = Arc::new(open("plain").unwrap().into());
    let forged: Arc<OwnedFd> = Arc::new(open("dmabuf:forged").unwrap().into());
    let before = fuse.asked();
    let long = Duration::from_secs(30);

    let expected = Some(FdKind::Other(OtherKind::RegularFile));
    assert_eq!(within(long, &plain, |fd| classify(fd).unwrap()), expected);
    // Out of reach, its link is that of a dma-buf.
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!(within(long, &forged, |fd| classify(fd).unwrap()), expected);
    let page = within(long, &plain, |fd| ReadOnlyPage::map(fd, 4096).is_err());
    assert_eq!(page, Some(true));
    assert_eq!(fuse.asked(), before, "the server was asked");

    // What is avoided does hang: this is the file system that the test means.
    let short = Duration::from_millis(300);
    assert_eq!(within(short, &plain, |fd| nix::sys::stat::fstat(fd).is_ok()), None);
    assert_eq!(within(short, &forged, |fd| nix::sys::statfs::fstatfs(fd).is_ok()), None);
    let (hung, end) = (|| fuse.asked(), Instant::now() + long);
    while ![GETATTR, STATFS].iter().all(|asked| hung().contains(asked)) {
        assert!(Instant::now() < end, "asked: {:?}", hung());
        std::thread::yield_now();
    }
}
