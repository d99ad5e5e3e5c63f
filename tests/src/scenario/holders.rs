//! Who holds a card: each kind of hold, alone, in a process that knows nothing of the broker, as the
//! installed helper tells of it. Asked twice each time: by its socket, in the sandbox of its unit, and as
//! a program that root starts. Both must say the same.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use dmashare_proto::holders::{Held, Holder, Holders, Look, LookFor, Node, Request, Role, What};
use dmashare_proto::transport::send;
use dmashare_uapi::dumb::DumbBuffer;
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::syncobj::Syncobj;
use dmashare_uapi::udmabuf;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::kms::Screen;
use crate::actor::{Key, Task};
use crate::scenario::figures::show;
use crate::{Actor, BOUND, Buffer, Card, Role as Part, Source, User, World};

const PROGRAM: &str = "/usr/libexec/dmashare/dmashare-holders";
const SOCKET: &str = "/run/dmashare/helpers/holders.sock";

pub(super) fn run(world: &mut World) -> Result<()> {
    let asked = Asked::new(world)?;
    nodes(world, &asked)?;
    buffers(world, &asked)?;
    fences(world, &asked)?;
    in_flight(world, &asked)
}

/// What is asked about.
struct Asked {
    card: Card,
    stay: Card,
    look: Look,
}

impl Asked {
    fn new(world: &World) -> Result<Self> {
        let (card, stay) = (world.egpu()?, world.card(Part::Stay)?);
        let device = look_for(&card)?;
        let others = vec![look_for(&world.igpu()?)?, look_for(&stay)?];
        Ok(Self { card, stay, look: Look { device, others } })
    }

    /// With a buffer that the broker knows to be the card's.
    fn knowing(&self, inode: u64) -> Look {
        let mut look = self.look.clone();
        look.device.buffers.push(inode);
        look
    }

    fn of(&self, actor: &Actor) -> Result<Option<Holder>> {
        of(&self.look, actor)
    }

    /// The one thing that an actor holds.
    fn one(&self, actor: &Actor) -> Result<Held> {
        one(&self.look, actor)
    }

    /// That nothing of the card's is left with an actor.
    fn nothing(&self, actor: &Actor) -> Result<()> {
        let found = self.of(actor)?;
        ensure!(found.is_none(), "found, although it has let go: {found:?}");
        Ok(())
    }
}

fn look_for(card: &Card) -> Result<LookFor> {
    let node = |path: &std::path::PathBuf| {
        let rdev = fs::metadata(path)?.rdev();
        let (major, minor) = (libc::major(rdev).into(), libc::minor(rdev).into());
        Ok(Node { path: path.to_string_lossy().into_owned(), major, minor })
    };
    let nodes = card.nodes.iter().map(node).collect::<Result<_>>()?;
    let (pci, driver) = (card.pci.clone(), card.driver.clone());
    Ok(LookFor { pci, driver, nodes, ..LookFor::default() })
}

/// What an actor holds, as both say.
fn of(look: &Look, actor: &Actor) -> Result<Option<Holder>> {
    let pid = actor.process().0;
    let find = |holders: Holders| holders.processes.into_iter().find(|holder| holder.pid == pid);
    let (by_socket, by_program) = (find(ask_socket(look)?), find(ask_program(look)?));
    ensure!(by_socket == by_program, "the unit says {by_socket:?}, root {by_program:?}");
    Ok(by_program)
}

fn one(look: &Look, actor: &Actor) -> Result<Held> {
    let holder = of(look, actor)?.context("nothing was found")?;
    match <[Held; 1]>::try_from(holder.holds) {
        Ok([held]) => Ok(held),
        Err(more) => bail!("one thing was to be found: {more:?}"),
    }
}

fn line(look: &Look) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Request::Look(look.clone()))?;
    line.push(b'\n');
    Ok(line)
}

fn ask_program(look: &Look) -> Result<Holders> {
    let mut child = Command::new(PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context(PROGRAM)?;
    child.stdin.take().context("its input")?.write_all(&line(look)?)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{PROGRAM}: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn ask_socket(look: &Look) -> Result<Holders> {
    let mut socket = UnixStream::connect(SOCKET).context(SOCKET)?;
    socket.set_read_timeout(Some(BOUND))?;
    socket.write_all(&line(look)?)?;
    let mut answer = String::new();
    BufReader::new(&socket).read_line(&mut answer).context("the helper's answer")?;
    ensure!(!answer.is_empty(), "the helper ended without an answer");
    Ok(serde_json::from_str(&answer)?)
}

/// A process of another user's, with what it is given.
struct Keeper(Actor, Key);

impl Keeper {
    fn new(world: &World, name: &str, fds: &[BorrowedFd<'_>]) -> Result<Self> {
        Self::at(world, name, Task::Keep, fds)
    }

    fn mapping(
        world: &World,
        name: &str,
        of: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<Self> {
        let task = Task::KeepMapping { offset, len: usize::try_from(len)? };
        Self::at(world, name, task, &[of])
    }

    fn at(world: &World, name: &str, task: Task, fds: &[BorrowedFd<'_>]) -> Result<Self> {
        let actor = world.actor(name, User::Alice)?;
        let key = actor.begin_with(task, fds)?.wait(BOUND)?.kept()?;
        Ok(Self(actor, key))
    }

    /// Has it let go, and looks whether it has.
    fn lets_go(self, asked: &Asked) -> Result<()> {
        self.0.call(Task::Release { key: self.1 })?;
        asked.nothing(&self.0)
    }
}

/// The master is in the way, whoever has opened the card for it; another open node is not.
fn nodes(world: &World, asked: &Asked) -> Result<()> {
    let first = asked.card.open()?;
    let master = Keeper::new(world, "master", &[first.as_fd(), first.as_fd()])?;
    drop(first);
    let (second, render) = (asked.card.open()?, asked.card.open_render()?);
    let onlooker =
        Keeper::new(world, "onlooker", &[second.as_fd(), second.as_fd(), render.as_fd()])?;
    drop((second, render));

    let held = asked.one(&master.0)?;
    // Two descriptors of one open file, which the driver says nothing of.
    let is_master = matches!(&held.what, What::Node { drm, .. } if drm.len() == 1 && drm[0].master);
    ensure!(is_master && held.fds == 2 && !held.active.is_empty(), "the master: {held:?}");
    let holder = asked.of(&master.0)?.context("the master")?;
    ensure!(holder.role == Role::Compositor && holder.user == "alice", "{holder:?}");
    ensure!(holder.unit == "vm-agent.service" && holder.is_active(), "{holder:?}");

    let holder = asked.of(&onlooker.0)?.context("the onlooker")?;
    ensure!(!holder.is_active() && holder.role == Role::Program, "{holder:?}");
    let mut found = Vec::new();
    for held in &holder.holds {
        let What::Node { path, .. } = &held.what else { bail!("{held:?}") };
        found.push((path.as_str(), held.fds));
    }
    let node = |place: usize| asked.look.device.nodes[place].path.as_str();
    ensure!(found == [(node(0), 2), (node(1), 1)], "{found:?}");
    onlooker.lets_go(asked)?;
    master.lets_go(asked)
}

/// By descriptor, by mapping alone, of others' cards, and of nobody's; and a mapping of the node itself.
fn buffers(world: &World, asked: &Asked) -> Result<()> {
    let buffer = Buffer::make(&asked.card, 64, 64)?;
    let FdKind::DmaBuf(id) = classify(buffer.dma_buf.as_fd())? else { bail!("no dma-buf") };
    let render = asked.stay.open_render()?;
    let dma_buf = buffer.dma_buf.as_fd();
    let open = Keeper::new(world, "with a dma-buf", &[dma_buf])?;
    let user = Keeper::new(world, "with another card", &[dma_buf, render.as_fd()])?;
    let mapped = Keeper::mapping(world, "with a mapping", dma_buf, 0, id.size)?;
    drop((buffer, render));

    for (keeper, fds, mappings) in [(&open, 1, 0), (&mapped, 0, 1), (&user, 1, 0)] {
        let wanted =
            What::DmaBuf { inode: id.inode, size: id.size, exporter: "virtio_gpu".to_owned() };
        let held = asked.one(&keeper.0)?;
        ensure!(held.what == wanted && (held.fds, held.mappings) == (fds, mappings), "{held:?}");
        // The card that stays has the same driver; a process that uses it may have it from there.
        let is_users = std::ptr::eq(keeper, &user);
        ensure!(!held.guess.is_empty() && held.active.is_empty() == is_users, "{held:?}");
        // The broker knows.
        let held = one(&asked.knowing(id.inode), &keeper.0)?;
        ensure!(
            held.what == wanted && held.guess.is_empty() && !held.active.is_empty(),
            "{held:?}"
        );
    }
    for keeper in [open, user, mapped] {
        keeper.lets_go(asked)?;
    }

    let neutral = udmabuf::create(8192)?;
    asked.nothing(&Keeper::new(world, "with nobody's buffer", &[neutral.as_fd()])?.0)?;

    let node = asked.card.open()?;
    let dumb = DumbBuffer::create(node.as_fd(), 64, 64, 32)?;
    let (offset, size) = (dumb.map_offset()?, dumb.size());
    let mapped = Keeper::mapping(world, "with the node mapped", node.as_fd(), offset, size)?;
    drop(dumb);
    drop(node);
    let held = asked.one(&mapped.0)?;
    let path = asked.look.device.nodes[0].path.clone();
    ensure!(held.what == What::Mapping { path, bytes: size }, "{held:?}");
    ensure!(held.fds == 0 && held.mappings == 1 && !held.active.is_empty(), "{held:?}");
    mapped.lets_go(asked)
}

/// The out-fence of a commit that waits: in a sync_file, in a binary syncobj, at a timeline's point.
fn fences(world: &World, asked: &Asked) -> Result<()> {
    let mut after = Source::endless(false)?;
    let screen = Screen::open(&asked.card)?;
    let (width, height) = screen.size();
    let make = || screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?);
    screen.show(make()?)?;
    let out = screen.flip_with_out_fence(make()?, Some(after.fd()))?;
    ensure!(sync_file::status(out.as_fd())? == Status::Pending, "the commit does not wait");

    let node = asked.stay.open_render()?;
    let binary = Syncobj::create(node.as_fd(), false)?;
    binary.import_sync_file(out.as_fd())?;
    let timeline = Syncobj::create(node.as_fd(), false)?;
    timeline.transfer_from(5, &binary, 0)?;
    let syncobjs: [OwnedFd; 2] = [binary.to_fd()?, timeline.to_fd()?];
    let in_file = Keeper::new(world, "with a sync_file", &[out.as_fd()])?;
    let in_objects = syncobjs.iter().map(|fd| Keeper::new(world, "with a syncobj", &[fd.as_fd()]));
    let in_objects = in_objects.collect::<Result<Vec<_>>>()?;
    let others = Keeper::new(world, "with another's fence", &[after.fd()])?;

    let drivers = vec![asked.card.driver.clone()];
    let is_pending =
        |held: &Held| held.fds == 1 && !held.active.is_empty() && !held.guess.is_empty();
    let held = asked.one(&in_file.0)?;
    let wanted = What::SyncFile { drivers: drivers.clone() };
    ensure!(held.what == wanted && is_pending(&held), "{held:?}");
    for keeper in &in_objects {
        let held = asked.one(&keeper.0)?;
        let wanted = What::Syncobj { drivers: drivers.clone() };
        ensure!(held.what == wanted && is_pending(&held), "{held:?}");
    }
    asked.nothing(&others.0)?;

    // What has ended is in nobody's way; nor is the syncobj of a process that uses the card.
    after.signal()?;
    screen.flipped(BOUND)?.context("the flip was not done")?;
    for keeper in in_objects.iter().chain([&in_file]) {
        asked.nothing(&keeper.0)?;
    }
    let render = asked.card.open_render()?;
    let both = Keeper::new(world, "with both", &[render.as_fd(), syncobjs[0].as_fd()])?;
    let holder = asked.of(&both.0)?.context("with both")?;
    let is_quiet =
        |held: &Held| matches!(&held.what, What::Syncobj { drivers } if drivers.is_empty());
    ensure!(holder.holds.len() == 2 && holder.holds.iter().any(is_quiet), "{holder:?}");
    ensure!(!holder.is_active(), "{holder:?}");
    Ok(())
}

/// An open node that no process has.
fn in_flight(world: &World, asked: &Asked) -> Result<()> {
    let told = || -> Result<Vec<String>> {
        let mut told = Vec::new();
        for holders in [ask_socket(&asked.look)?, ask_program(&asked.look)?] {
            let of = holders.others.into_iter().filter(|other| other.kind == "in-flight");
            told.extend(of.map(|other| other.text));
        }
        Ok(told)
    };
    ensure!(told()?.is_empty(), "in flight before anything was sent: {:?}", told()?);
    let (here, there) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let node = asked.card.open_render()?;
    send(here.as_fd(), b"node", &[node.as_fd()])?;
    drop(node);
    let texts = told()?;
    let path = asked.look.device.nodes[1].path.as_str();
    ensure!(texts.len() == 2 && texts.iter().all(|text| text.contains(path)), "{texts:?}");
    show(format_args!("in flight: {}", texts[0]));
    drop((here, there));
    ensure!(told()?.is_empty(), "still in flight: {:?}", told()?);

    let all = ask_program(&asked.look)?;
    ensure!(all.looked.unseen == 0, "root may look into all: {:?}", all.looked);
    for other in &all.others {
        show(format_args!("{}: {}", other.kind, other.text));
    }
    show(format_args!("{:?}", all.looked));
    // The broker itself, at most: it has all cards open.
    let broker = world.broker()?.0;
    let left: Vec<&Holder> = all.processes.iter().filter(|holder| holder.pid != broker).collect();
    ensure!(left.iter().all(|holder| !holder.is_active()), "after all have let go: {left:?}");
    Ok(())
}
