//! A broker in the test's hand: it says what the test tells it to, when the test tells it to.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use dmashare::{Connection, DeviceId, Error, Layout, ObjectId, Plane};
use dmashare_proto::codec::{decode_request, encode};
use dmashare_proto::message::{Cause, DeviceAt, DeviceLost, GuardKind, Hello, Imported, Welcome};
use dmashare_proto::state_page::{DeviceState, LAYOUT, MAGIC, SIZE, SLOTS, Word, word_offset};
use dmashare_proto::transport::{Buffer, Received, send};
use dmashare_proto::{Event, Reply, Request};
use dmashare_uapi::futex;
use dmashare_uapi::memfd::SharedPage;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

/// A test that waits longer than this for something has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NOW: Option<Duration> = Some(Duration::ZERO);
pub const SOON: Option<Duration> = Some(PATIENCE);

pub const DEVICE: DeviceId = DeviceId(3);
pub const AT: DeviceAt =
    DeviceAt { device: DEVICE, slot: 1, word: Word::new(5, DeviceState::Present) };

pub struct Broker {
    socket: OwnedFd,
    buffer: Buffer,
    pub page: SharedPage,
}

/// The two ends of a connection, before anything is said.
pub fn pair() -> (OwnedFd, Broker) {
    let (client, broker) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    (client, Broker::on(broker))
}

/// Where brokers can be connected to, one after the other.
pub struct Listener {
    socket: OwnedFd,
    pub path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Listener {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.sock");
        Self { socket: listen(&path), path, _dir: dir }
    }

    /// Nobody is there from here on.
    pub fn close(self) -> (std::path::PathBuf, tempfile::TempDir) {
        fs::remove_file(&self.path).unwrap();
        (self.path, self._dir)
    }

    pub fn again((path, dir): (std::path::PathBuf, tempfile::TempDir)) -> Self {
        Self { socket: listen(&path), path, _dir: dir }
    }

    /// The next client.
    pub fn accept(&self) -> Broker {
        use nix::sys::socket::accept4;
        use std::os::fd::{AsRawFd, FromRawFd};

        assert!(dmashare_uapi::sync_file::wait(self.socket.as_fd(), SOON).unwrap(), "nobody comes");
        let fd = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC).unwrap();
        // SAFETY: the kernel has installed a new descriptor, ours alone.
        Broker::on(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A connection that is made anew by itself, and its first broker.
    pub fn connected(&self) -> (Connection, Broker) {
        std::thread::scope(|scope| {
            let builder = Connection::builder().reconnect(true);
            let client = scope.spawn(|| builder.connect_to(&self.path).unwrap());
            let mut broker = self.accept();
            let (id, _) = broker.hello();
            broker.welcome(id);
            (client.join().unwrap(), broker)
        })
    }
}

fn listen(path: &std::path::Path) -> OwnedFd {
    use nix::sys::socket::{Backlog, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;

    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(8).unwrap()).unwrap();
    fd
}

/// A connection that has shaken hands, and its broker.
pub fn connected() -> (Connection, Broker) {
    connected_as(Connection::builder())
}

pub fn connected_as(builder: dmashare::Builder) -> (Connection, Broker) {
    let (socket, mut broker) = pair();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| builder.from_fd(socket).unwrap());
        let (id, hello) = broker.hello();
        assert_eq!((hello.version_min, hello.version_max), (1, 1));
        broker.welcome(id);
        (client.join().unwrap(), broker)
    })
}

impl Broker {
    /// A broker on its end of a connection, with a page of its own.
    fn on(socket: OwnedFd) -> Self {
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(20, 0)).unwrap();
        let page = SharedPage::create(c"dmashare-test-state", SIZE).unwrap();
        page.atomic_u64(0).store(MAGIC, Ordering::Relaxed);
        page.atomic_u32(8).store(LAYOUT, Ordering::Relaxed);
        page.atomic_u32(12).store(SLOTS, Ordering::Relaxed);
        let broker = Self { socket, buffer: Buffer::default(), page };
        broker.set(AT, DeviceState::Present);
        broker
    }

    pub fn receive(&mut self) -> Option<(u64, Request, Vec<OwnedFd>)> {
        match self.buffer.receive(self.socket.as_fd()).expect("the client sends nothing") {
            Received::Datagram(len, fds) => {
                let (header, request) = decode_request(self.buffer.bytes(len), fds.len()).unwrap();
                assert_ne!(header.id, 0);
                Some((header.id, request, fds))
            }
            Received::Closed => None,
            Received::Truncated => panic!("truncated"),
        }
    }

    /// The next request and its id.
    pub fn request(&mut self) -> (u64, Request) {
        let (id, request, _) = self.receive().expect("the client has left");
        (id, request)
    }

    /// A request that is there already.
    pub fn try_request(&mut self) -> Option<(u64, Request)> {
        let there = dmashare_uapi::sync_file::wait(self.socket.as_fd(), NOW).unwrap();
        there.then(|| self.request())
    }

    pub fn hello(&mut self) -> (u64, Hello) {
        match self.request() {
            (id, Request::Hello(hello)) => (id, hello),
            other => panic!("{other:?}"),
        }
    }

    pub fn welcome(&self, id: u64) {
        let welcome =
            Welcome { version: 1, features: 0, instance: [7; 16], backend: GuardKind::Simulated };
        self.reply_with(id, Reply::Welcome(welcome), &[self.page.as_fd()]);
    }

    pub fn reply(&self, id: u64, reply: Reply) {
        self.reply_with(id, reply, &[]);
    }

    pub fn reply_with(&self, id: u64, reply: Reply, fds: &[BorrowedFd<'_>]) {
        self.raw(&encode(&reply, id, fds.len()).unwrap(), fds);
    }

    pub fn event(&self, event: Event) {
        self.raw(&encode(&event, 0, 0).unwrap(), &[]);
    }

    pub fn raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        send(self.socket.as_fd(), bytes, fds).unwrap();
    }

    /// Answers the next request, which has to be this one, by `Done`.
    pub fn expect_done(&mut self, expected: &Request) {
        let (id, request) = self.request();
        assert_eq!(request, *expected);
        self.reply(id, Reply::Done(()));
    }

    /// Writes a device's word and wakes who waits for it.
    pub fn set(&self, at: DeviceAt, state: DeviceState) {
        let word = self.page.atomic_u32(word_offset(at.slot).unwrap());
        word.store(Word::new(at.word.generation(), state).0, Ordering::Release);
        futex::wake_all(word).unwrap();
    }

    /// The loss as a broker tells it: first the page, then the event.
    pub fn lose(&self, imports: u32) {
        self.set(AT, DeviceState::Lost);
        self.event(lost_event(imports));
    }

    /// That the client has sent nothing more: it leaves, and that is the next that is seen.
    pub fn expect_end(&mut self) {
        if let Some((_, request, _)) = self.receive() {
            panic!("{request:?} was not expected");
        }
    }
}

pub fn lost_event(imports: u32) -> Event {
    Event::DeviceLost(DeviceLost {
        device: DEVICE,
        cause: Cause::Unplugged,
        at_ns: 1_000,
        buffers: 0,
        imports,
        fences: 0,
    })
}

/// A plane that is no dma-buf: a memfd full of `byte`, of a name that its fds are found by.
pub fn plane(name: &str, len: usize, byte: u8) -> OwnedFd {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = fs::File::from(fd);
    std::io::Write::write_all(&mut file, &vec![byte; len]).unwrap();
    file.into()
}

/// How many fds of this process are open on the memfd of that name. Counting by name, the tests of
/// one process do not see each other's.
pub fn open_fds(name: &str) -> usize {
    let target = format!("/memfd:{name} (deleted)");
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter(|link| link.as_os_str() == target.as_str())
        .count()
}

/// How many mappings of that memfd this process has.
pub fn mappings(name: &str) -> usize {
    let target = format!("/memfd:{name} (deleted)");
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.ends_with(&target)).count()
}

pub fn layout(planes: usize) -> Layout {
    Layout {
        width: 32,
        height: 32,
        fourcc: u32::from_le_bytes(*b"XR24"),
        modifier: 0,
        planes: vec![Plane { offset: 0, stride: 128 }; planes],
    }
}

pub fn imported(import: u64, sizes: &[u64], cpu_sync: bool) -> Reply {
    Reply::Imported(Imported {
        import: ObjectId(import),
        buffer: ObjectId(17),
        at: Some(AT),
        layout: layout(sizes.len()),
        sizes: sizes.to_vec(),
        cpu_sync,
    })
}

/// Imports a buffer of one plane of 8 KiB in a memfd of this name, full of 0xaa.
pub fn import(
    connection: &Connection,
    broker: &mut Broker,
    import: u64,
    name: &str,
) -> dmashare::ImportedBuffer {
    let token = dmashare::Token::from_bytes([9; 16]);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| connection.import(token, dmashare::Importer::Cpu));
        let (id, request) = broker.request();
        assert!(matches!(request, Request::Import(_)), "{request:?}");
        let plane = plane(name, 8192, 0xaa);
        broker.reply_with(id, imported(import, &[8192], false), &[plane.as_fd()]);
        client.join().unwrap().unwrap()
    })
}

pub fn is_lost<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    match result {
        Err(Error::DeviceLost(lost)) => lost.device == DEVICE,
        other => panic!("{other:?}"),
    }
}

/// Whether poll says that there is something to dispatch, within that time.
pub fn readable(connection: &Connection, timeout: Option<Duration>) -> bool {
    dmashare_uapi::sync_file::wait(connection.as_fd(), timeout).unwrap()
}
