//! What clients send, bytes and descriptors, into the real service on simulated devices, over real
//! connections. Every request is answered or its connection ends; when all clients have gone nothing of
//! theirs is left, and as many descriptors are open as before.

#![no_main]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use dmashared::shell::fuzzing::Service;
use libfuzzer_sys::fuzz_target;
use nix::sys::signal::{SigHandler, Signal, signal};
use tempfile::TempDir;

#[path = "stream/client.rs"]
mod client;
#[path = "stream/files.rs"]
mod files;
#[path = "stream/script.rs"]
mod script;

use client::Client;
use files::Files;
use script::{Script, Step};

/// What is waited for at most, a hundred times what was seen.
const BOUND: Duration = Duration::from_secs(60);

/// Run once before descriptors are counted: what is opened when it is first needed is open then.
const EVERYTHING: &[u8] = include_bytes!("../corpus/stream/everything");

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fuzz_target!(|data: &[u8]| WORLD.run(data));

/// The service, its devices, and how many descriptors there were before there was a client.
struct World {
    folder: TempDir,
    service: Service,
    before: usize,
}

impl World {
    fn new() -> Self {
        // SAFETY: nothing is run by it. Rust's own start does so, and libFuzzer's does not come by there.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }.expect("it can be ignored");
        let folder = tempfile::tempdir().expect("a folder");
        plug(&folder, "egpu", true);
        plug(&folder, "igpu", false);
        let service = Service::start(folder.path()).expect("the service starts");
        let mut this = Self { folder, service, before: usize::MAX };
        this.until("the devices are there", |this| this.present() == 2);
        this.run(EVERYTHING);
        // What is closed by threads is closed by and by.
        let mut least = open();
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            least = least.min(open());
            std::thread::yield_now();
        }
        this.before = least;
        this
    }

    fn run(&self, data: &[u8]) {
        let script = Script::parse(data);
        let mut files = Files::new(self.folder.path());
        let mut clients = script.greets.map(|greets| Client::connect(&self.service, greets));
        for step in script.steps {
            match step {
                Step::Send(of, datagram) => {
                    let client = &mut clients[of];
                    let fds = datagram.kinds.iter().map(|kind| files.get(*kind, client)).collect();
                    client.send(datagram, fds);
                }
                Step::Again(of) => clients[of] = Client::connect(&self.service, script.greets[of]),
                Step::Unplug => self.unplug(),
                Step::End(n, result) => files.end(n, result),
            }
            let known = script::Known::of(&clients);
            clients.iter_mut().for_each(|client| client.known = known.clone());
        }
        files.end_all();
        drop((clients, files));
        self.until("nothing is left", |this| this.has().left.is_empty());
        self.until("descriptors are as before", |this| open() <= this.before);
        if self.present() < 2 {
            self.come_back();
        }
    }

    fn has(&self) -> dmashared::shell::fuzzing::Has {
        self.service.has().expect("the service answers")
    }

    fn present(&self) -> usize {
        self.has().present
    }

    /// Waits until it is so. There is no event that a stranger could wait for.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + BOUND;
        while !is_so(self) {
            let has = self.has();
            assert!(Instant::now() < end, "not within {BOUND:?}: {what}; {has:?}, {} open", open());
            std::thread::yield_now();
        }
    }

    /// The eGPU's removal, as the kernel tells of it.
    fn unplug(&self) {
        // Not there any more when that is told, as in sysfs: a reactor that has not heard of the device
        // yet finds that when it does.
        if fs::remove_dir_all(self.folder.path().join("devices/egpu")).is_err() {
            return;
        }
        let devpath = "/devices/sim/egpu/drm/card0";
        let text = format!(
            "remove@{devpath}\0ACTION=remove\0DEVPATH={devpath}\0SUBSYSTEM=drm\0SEQNUM=1\0"
        );
        self.tell("uevent.sock", text.as_bytes());
        self.until("the eGPU is lost", |this| this.present() < 2);
    }

    /// Another eGPU, in the place of the one that went.
    fn come_back(&self) {
        plug(&self.folder, "egpu", true);
        self.tell("udev.sock", b"x");
        self.until("the eGPU is back", |this| this.present() == 2);
    }

    fn tell(&self, socket: &str, text: &[u8]) {
        let caller = UnixDatagram::unbound().expect("a socket");
        caller.send_to(text, self.folder.path().join(socket)).expect("the service listens");
    }
}

fn plug(folder: &TempDir, name: &str, removable: bool) {
    let device: PathBuf = folder.path().join("devices").join(name);
    fs::create_dir_all(&device).expect("a folder");
    fs::write(device.join("card0"), "").expect("a file");
    let text = format!("driver = \"simgpu\"\nremovable = {removable}\nnodes = [\"card0\"]\n");
    fs::write(device.join("device.toml"), text).expect("a file");
}

/// Descriptors of this process.
fn open() -> usize {
    fs::read_dir("/proc/self/fd").expect("it is there").count()
}
