//! Looks at real processes. On simulated devices: regular files for nodes, memfds for dma-bufs; and on
//! `/dev/full`, which hardly anybody else has open, for what a real node's number is needed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dmashare_helpers::holders::look;
use dmashare_proto::holders::{
    Held, Holder, Holders, Kept, Look, LookFor, Node, Request, Role, What,
};
use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::sim;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tempfile::TempDir;

const CHILD: &str = "DMASHARE_HOLDERS_CHILD";
const FULL: &str = "/dev/full";

/// One test at a time: a child has all that this process has, until it runs its own program.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another process. Killed when dropped.
struct Other(Child);

impl Other {
    /// It has these as its standard input and output.
    fn with(input: impl Into<Stdio>, output: impl Into<Stdio>) -> Self {
        Self(Command::new("sleep").arg("1000").stdin(input).stdout(output).spawn().unwrap())
    }

    /// It has a file mapped, and not open.
    fn with_mapping(of: OwnedFd) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(CHILD, "1")
            .stdin(of)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_ready(&mut child);
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What the harness of the tests says comes first.
fn wait_ready(child: &mut Child) {
    let mut said = Vec::new();
    let output = child.stdout.as_mut().unwrap();
    while !said.ends_with(b"ready\n") {
        let mut byte = [0];
        output.read_exact(&mut byte).expect("the other process has ended");
        said.push(byte[0]);
    }
}

/// Not a test of its own: what [`Other::with_mapping`] runs.
#[test]
fn the_other_process() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let len = usize::try_from(
        File::from(io::stdin().as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().len(),
    )
    .unwrap();
    let _mapping = Mapping::map(io::stdin().as_fd(), 0, len, Prot::Read).unwrap();
    let nothing = File::open("/dev/null").unwrap();
    nix::unistd::dup2_stdin(nothing).unwrap();
    io::stdout().write_all(b"ready\n").unwrap();
    io::stdout().flush().unwrap();
    loop {
        nix::unistd::pause();
    }
}

/// A simulated card with two nodes.
struct Card {
    folder: TempDir,
    buffers: Vec<u64>,
}

impl Card {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["card", "render"] {
            fs::write(folder.path().join(name), "node").unwrap();
        }
        Self { folder, buffers: Vec::new() }
    }

    fn open(&self, name: &str) -> File {
        File::open(self.folder.path().join(name)).unwrap()
    }

    fn node(&self, name: &str) -> Node {
        let path = self.folder.path().join(name);
        let of = fs::metadata(&path).unwrap();
        Node { path: path.to_str().unwrap().to_owned(), major: of.dev(), minor: of.ino() }
    }

    fn look_for(&self) -> LookFor {
        LookFor {
            driver: "simulated".into(),
            nodes: vec![self.node("card"), self.node("render")],
            buffers: self.buffers.clone(),
            simulated: true,
            ..LookFor::default()
        }
    }

    fn look(&self) -> Holders {
        look(&Look { device: self.look_for(), others: Vec::new() }).unwrap()
    }
}

fn full() -> Look {
    let node = Node { path: FULL.into(), major: 1, minor: 7 };
    Look { device: LookFor { nodes: vec![node], ..LookFor::default() }, others: Vec::new() }
}

fn find(holders: &Holders, pid: i32) -> Option<&Holder> {
    holders.processes.iter().find(|holder| holder.pid == pid)
}

fn only(holders: &Holders, pid: i32) -> &Held {
    match &find(holders, pid).expect("it holds something").holds[..] {
        [held] => held,
        more => panic!("{more:?}"),
    }
}

fn is_node(held: &Held, of: &str) -> bool {
    matches!(&held.what, What::Node { path, .. } if path == of)
}

#[test]
fn open_nodes_are_idle_where_the_driver_lets_go() {
    let _alone = alone();
    let card = Card::new();
    let twice = card.open("card");
    let other = Other::with(twice.try_clone().unwrap(), twice);
    let reader = Other::with(card.open("render"), Stdio::null());
    let found = card.look();
    let held = only(&found, other.pid());
    assert!(is_node(held, &card.node("card").path) && held.fds == 2, "{held:?}");
    assert_eq!((held.active.as_str(), held.guess.as_str()), ("", ""));
    assert!(is_node(only(&found, reader.pid()), &card.node("render").path));
    assert_eq!(found.processes.len(), 2, "{found:?}");
    assert!(found.looked.processes > 2 && found.looked.fds > 4, "{:?}", found.looked);

    let device = LookFor { blocks_while_open: true, ..card.look_for() };
    let found = look(&Look { device, others: Vec::new() }).unwrap();
    assert!(find(&found, other.pid()).unwrap().is_active());
    drop((other, reader));
    assert_eq!(card.look().processes, []);
}

#[test]
fn a_process_is_named() {
    let _alone = alone();
    let card = Card::new();
    let other = Other::with(card.open("card"), Stdio::null());
    let found = card.look();
    let holder = find(&found, other.pid()).unwrap();
    assert_eq!((holder.command.as_str(), holder.role), ("sleep", Role::Program));
    let of = procfs::process::Process::new(other.pid()).unwrap();
    assert_eq!(holder.start, of.stat().unwrap().starttime);
    assert_eq!(holder.uid, nix::unistd::geteuid().as_raw());
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    assert_eq!(holder.user, user.map_or_else(|| holder.uid.to_string(), |user| user.name));
}

#[test]
fn a_buffer_by_descriptor_and_by_mapping_alone() {
    let _alone = alone();
    let mut card = Card::new();
    let buffers = [sim::buffer(8192).unwrap(), sim::buffer(4096).unwrap()];
    let [open, mapped] = buffers.map(File::from);
    let inode = |file: &File| file.metadata().unwrap().ino();
    let inodes = [inode(&open), inode(&mapped)];
    card.buffers = inodes.to_vec();
    let stranger = sim::buffer(4096).unwrap();
    let holders = [Other::with(open, stranger), Other::with_mapping(mapped.into())];
    let found = card.look();
    let [by_descriptor, by_mapping] = holders.each_ref().map(|holder| only(&found, holder.pid()));
    let is =
        |held: &Held, wanted| matches!(held.what, What::DmaBuf { inode, .. } if inode == wanted);
    assert!(is(by_descriptor, inodes[0]) && is(by_mapping, inodes[1]), "{found:?}");
    assert_eq!((by_descriptor.fds, by_descriptor.mappings), (1, 0));
    assert_eq!((by_mapping.fds, by_mapping.mappings), (0, 1));
    for held in [by_descriptor, by_mapping] {
        assert!(!held.active.is_empty() && held.guess.is_empty(), "{held:?}");
    }
    assert!(matches!(by_descriptor.what, What::DmaBuf { size: 8192, .. }), "{by_descriptor:?}");
    // Nobody has the others': this test's own are not told of, since it is who asks.
    assert_eq!(found.processes.len(), 2, "{found:?}");
    drop(holders);
    assert_eq!(card.look().processes, []);
}

#[test]
fn a_mapped_node_is_active() {
    let _alone = alone();
    let card = Card::new();
    let other = Other::with_mapping(card.open("card").into());
    let found = card.look();
    let held = only(&found, other.pid());
    let path = card.node("card").path;
    assert!(
        matches!(&held.what, What::Mapping { path: of, bytes } if *of == path && *bytes > 0),
        "{held:?}"
    );
    assert!(held.mappings == 1 && held.fds == 0 && !held.active.is_empty(), "{held:?}");
}

#[test]
fn a_renamed_and_an_unlinked_node_are_found() {
    let _alone = alone();
    let card = Card::new();
    let look_for = card.look_for();
    let at = |name: &str| card.folder.path().join(name);
    let [renamed, unlinked] =
        ["card", "render"].map(|name| Other::with(card.open(name), Stdio::null()));
    fs::rename(at("card"), at("text.txt")).unwrap();
    fs::remove_file(at("render")).unwrap();
    let found = look(&Look { device: look_for, others: Vec::new() }).unwrap();
    assert!(find(&found, renamed.pid()).is_some() && find(&found, unlinked.pid()).is_some());
}

#[test]
fn a_name_of_a_node_is_no_hold() {
    let _alone = alone();
    let name = nix::fcntl::open(FULL, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let named = Other::with(name, Stdio::null());
    let opened = Other::with(File::open(FULL).unwrap(), Stdio::null());
    let found = look(&full()).unwrap();
    assert!(find(&found, named.pid()).is_none(), "{found:?}");
    assert!(is_node(only(&found, opened.pid()), FULL));
}

/// Counted up from 0, one would never come to it.
#[test]
fn a_descriptor_of_a_high_number_is_found() {
    let _alone = alone();
    let mut child = Command::new("bash")
        .args(["-c", "exec 200< /dev/full && echo ready && exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_ready(&mut child);
    let other = Other(child);
    let found = look(&full()).unwrap();
    assert!(is_node(only(&found, other.pid()), FULL), "{found:?}");
}

/// As a container has it: its own node, below another path, in a mount namespace of its own.
#[test]
fn a_node_in_another_mount_namespace_is_found() {
    let _alone = alone();
    let folder = TempDir::new().unwrap();
    let script = "mount -t tmpfs none \"$0\" && mknod \"$0/socket:[1]\" c 1 7 &&
        exec 0< \"$0/socket:[1]\" && rm \"$0/socket:[1]\" && echo ready && exec sleep 1000";
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(Path::new(folder.path()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 6];
    let is_ready = child.stdout.as_mut().unwrap().read_exact(&mut first).is_ok();
    let mut other = Other(child);
    if !is_ready {
        let mut why = String::new();
        other.0.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        return println!("skipped: no namespace and node of one's own here: {}", why.trim());
    }
    let found = look(&full()).unwrap();
    assert!(is_node(only(&found, other.pid()), FULL), "{found:?}");
}

/// The program, as the broker asks it: one line in, one line out, on a connection that stays open.
#[test]
fn the_program_answers_a_line() {
    let _alone = alone();
    let card = Card::new();
    let other = Other::with(card.open("card"), Stdio::null());
    let look = Look { device: card.look_for(), others: Vec::new() };
    let found: Holders = ask(&Request::Look(look));
    assert!(find(&found, other.pid()).is_some(), "{found:?}");

    let inode = card.open("card").metadata().unwrap().ino();
    // A regular file is no dma-buf, nor what stands for one.
    let kept: Kept = ask(&Request::Keeps { pid: other.pid(), inodes: vec![inode] });
    assert_eq!(kept, Kept::default());
    let gone: Kept = ask(&Request::Keeps { pid: i32::MAX, inodes: vec![inode] });
    assert!(gone.holds.iter().all(|line| line.contains("cannot be seen")), "{gone:?}");
    assert_eq!(gone.holds.len(), 2, "{gone:?}");

    let mut program = Command::new(env!("CARGO_BIN_EXE_dmashare-holders"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    program.stdin.take().unwrap().write_all(b"{\"device\": 5}\n").unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the request"), "{output:?}");
}

/// Asks the program.
fn ask<T: serde::de::DeserializeOwned>(request: &Request) -> T {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_dmashare-holders"))
        .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
        .stdout(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    (&ours).write_all(&line).unwrap();
    let mut answer = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(&ours), &mut answer).unwrap();
    assert!(program.wait().unwrap().success());
    serde_json::from_str(&answer).unwrap()
}
