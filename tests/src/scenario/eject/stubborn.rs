//! Programs that hold on and have never heard of the broker: named with what they hold, and ended by force
//! alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use dmashare::LossPolicy;
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::pidfd;
use dmashare_uapi::syncobj::Syncobj;
use zbus::zvariant::Value;

use super::{LONG, Program, SHORT, begun, comes_back, ends, is_as_before};
use crate::actor::Task;
use crate::scenario::kms::Screen;
use crate::{Actor, BOUND, Buffer, Role, Source, User, World};

pub(crate) fn run(world: &mut World) -> Result<()> {
    idle(world)?;
    mapping(world)?;
    card(world)?;
    syncobj(world)
}

/// Another user's process, with what it is given.
fn keeper(world: &World, task: Task, fds: &[BorrowedFd<'_>]) -> Result<Actor> {
    let actor = world.actor("stubborn", User::Bob)?;
    actor.begin_with(task, fds)?.wait(BOUND)?.kept()?;
    Ok(actor)
}

/// Refused, and named; nothing has changed.
fn is_refused(world: &World, program: &Program, by: &Actor, with: &str) -> Result<()> {
    let job = begun(world, program.device, &[SHORT])?;
    let message = ends(&job, "refused")?;
    let pid = by.process().0;
    ensure!(message.contains(&format!("(pid {pid}, user bob")), "it is not named: {message}");
    ensure!(message.contains(with), "it is not told that it holds {with}: {message}");
    is_as_before(world, program)
}

/// With force it ends, and the device goes.
fn is_ended(world: &World, program: &Program, by: &Actor, force: u32) -> Result<()> {
    let process = pidfd::open(by.process().0)?;
    let options = [("timeout-ms", Value::U32(3000)), ("force", Value::U32(force))];
    ends(&begun(world, program.device, &options)?, "ejected")?;
    ensure!(!pidfd::is_alive(process.as_fd())?, "process {} lives on", by.process().0);
    comes_back(world, program.device).map(drop)
}

/// An open node and nothing else stops nobody.
fn idle(world: &World) -> Result<()> {
    let program = Program::new(world)?;
    let render = program.card.open_render()?;
    let onlooker = keeper(world, Task::Keep, &[render.as_fd()])?;
    drop(render);
    let job = begun(world, program.device, &[LONG])?;
    ends(&job, "ejected")?;
    let found = job.holders()?;
    let listed = found.processes.iter().find(|holder| holder.pid == onlooker.process().0);
    ensure!(listed.is_some_and(|holder| !holder.is_active()), "{found:?}");
    comes_back(world, program.device).map(drop)
}

/// The mapping of a dma-buf, and no descriptor.
fn mapping(world: &World) -> Result<()> {
    let program = Program::new(world)?;
    let buffer = Buffer::make(&program.card, 64, 64)?;
    let FdKind::DmaBuf(id) = classify(buffer.dma_buf.as_fd())? else { bail!("no dma-buf") };
    let task = Task::KeepMapping { offset: 0, len: usize::try_from(id.size)? };
    let keeper = keeper(world, task, &[buffer.dma_buf.as_fd()])?;
    drop(buffer);
    is_refused(world, &program, &keeper, "dma-buf")?;
    is_ended(world, &program, &keeper, 1)
}

/// The card, as its master.
fn card(world: &World) -> Result<()> {
    let program = Program::new(world)?;
    let card = program.card.open()?;
    let keeper = keeper(world, Task::Keep, &[card.as_fd()])?;
    drop(card);
    is_refused(world, &program, &keeper, "master")?;
    is_ended(world, &program, &keeper, 2)
}

/// A syncobj, of which nothing says whose it is but the fence that is pending in it: the card's commit waits.
fn syncobj(world: &World) -> Result<()> {
    let program = Program::new(world)?;
    // What this process does with the card is in nobody's way.
    program.connection.declare(LossPolicy::Wait, true)?;
    let mut before = Source::endless(false)?;
    let screen = Screen::open(&program.card)?;
    let (width, height) = screen.size();
    let make = || screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?);
    screen.show(make()?)?;
    let out = screen.flip_with_out_fence(make()?, Some(before.fd()))?;
    let node = world.card(Role::Stay)?.open_render()?;
    let object = Syncobj::create(node.as_fd(), false)?;
    object.import_sync_file(out.as_fd())?;
    let fd: OwnedFd = object.to_fd()?;
    let keeper = keeper(world, Task::Keep, &[fd.as_fd()])?;
    drop((fd, object, out));
    drop(node);
    is_refused(world, &program, &keeper, "syncobj")?;
    // With its work done it is nobody's any more.
    before.signal()?;
    screen.flipped(BOUND)?.context("the flip was not done")?;
    drop(screen);
    ends(&begun(world, program.device, &[LONG])?, "ejected")?;
    comes_back(world, program.device).map(drop)
}
