//! Attacks on the broker while a well-behaved pair keeps its rhythm, and what the pair sees of them.
//!
//! The quiet run has the same load on the processors: a process that talks to nobody burns what an
//! attacker would. So what is left between the two is the broker's.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::actor::{Pace, Task};
use crate::process::eventually;
use crate::scenario::figures::{note, show};
use crate::{Actor, BOUND, Backend, User, World};

/// Frames in each of the two runs, so that a thousandth is a frame.
const FRAMES: usize = 1000;
/// The emulated machine takes ten times as long.
const FRAMES_EMULATED: usize = 200;
/// What the broker may grow by: tables and an allocator keep of the most that there was at one time,
/// which is the records of 16,384 objects where one client has all that it may.
const GROWTH_KIB: u64 = 16 * 1024;
/// What it may grow by when the same is done once more: nothing, but for what chance does to an
/// allocator.
const AGAIN_KIB: u64 = 2 * 1024;
/// Datagrams between two looks at whether the pair has had enough.
const BURNT: usize = 1000;
/// How much of everything, as a multiple: for runs by hand.
const SCALE: &str = "DMASHARE_HOSTILE_SCALE";

/// How much of an attack: fewer in the virtual machine, where the processor is emulated, and as many
/// times more as the variable says.
///
/// # Errors
/// The variable is no number.
pub fn amount(world: &World, simulated: usize, emulated: usize) -> Result<usize> {
    let base = if world.is_simulated() { simulated } else { emulated };
    Ok(base * scale()?)
}

fn scale() -> Result<usize> {
    let Some(text) = std::env::var_os(SCALE) else { return Ok(1) };
    text.to_string_lossy().parse().with_context(|| format!("{SCALE}={}", text.display()))
}

/// Runs an attack, again and again while the pair has not exchanged enough, and looks at the broker
/// before and after.
///
/// # Errors
/// The pair failed; the broker has died, or has kept something; the attack could not be made.
pub fn under_attack(world: &World, mut attack: impl FnMut() -> Result<()>) -> Result<()> {
    let frames = if world.is_simulated() { FRAMES } else { FRAMES_EMULATED } * scale()?;
    let pair = world.actor("pair", User::Alice)?;
    // The first run of all fills what is made once.
    run(world, &pair, 20, burn)?;
    let quiet = run(world, &pair, frames, burn)?;
    let broker = world.broker()?;
    settled(world)?;
    let (descriptors, resident) = (broker.descriptors()?.len(), broker.resident_kib()?);

    let attacked = run(world, &pair, frames, &mut attack)?;

    ensure!(world.broker()? == broker, "the broker is another process than before");
    settled(world)?;
    let spare = if world.backend() == Backend::Vgem { 16 } else { 0 };
    let what = format!("the broker has {descriptors} descriptors, as before");
    eventually(&what, BOUND, || Ok(broker.descriptors()?.len() <= descriptors + spare))?;
    let after = broker.resident_kib()?;
    let grown = after.saturating_sub(resident);
    report(quiet, attacked, grown);
    ensure!(grown <= GROWTH_KIB, "the broker has grown by {grown} KiB, from {resident}");

    // Once more, beside a pair that is just come, and is served.
    run(world, &pair, 1, attack)?;
    settled(world)?;
    eventually(&what, BOUND, || Ok(broker.descriptors()?.len() <= descriptors + spare))?;
    let again = broker.resident_kib()?.saturating_sub(after);
    ensure!(again <= AGAIN_KIB, "the broker has grown by {again} KiB more, from {after}");
    ensure!(world.broker()? == broker, "the broker is another process than before");
    Ok(())
}

/// Nobody is connected, and no object is left.
fn settled(world: &World) -> Result<()> {
    world.bus().until("no clients and no objects", BOUND, |bus| {
        let idle = bus.devices()?.iter().all(|device| device.counts() == (0, 0, 0));
        Ok((idle && bus.clients()?.is_empty()).then_some(()))
    })
}

/// The pair's run while something else goes on, again and again until the pair has had enough.
fn run(
    world: &World,
    pair: &Actor,
    frames: usize,
    mut other: impl FnMut() -> Result<()>,
) -> Result<Pace> {
    let (reader, pipe) = std::io::pipe()?;
    let task = Task::KeepPace { socket: world.socket(), card: world.egpu()?, enough: frames };
    let pair = pair.begin_with(task, &[reader.as_fd()])?;
    loop {
        other()?;
        if pair.is_at_it() {
            break;
        }
    }
    drop(pipe);
    pair.wait(BOUND).context("the pair was disturbed")?.pace()
}

/// What an attacker's processor does, without the broker: datagrams to itself.
fn burn() -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let mut bytes = [0; 64];
    for _ in 0..BURNT {
        send(one.as_raw_fd(), &bytes, MsgFlags::empty())?;
        recv(other.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    }
    Ok(())
}

fn report(quiet: Pace, attacked: Pace, grown: u64) {
    let line = |name: &str, pace: Pace| {
        let Pace { frames, median_us, p999_us, worst_us } = pace;
        show(format_args!(
            "{name}: {frames} frames, a share takes {median_us} us, 999 of 1000 at most {p999_us} us, \
             all {worst_us} us"
        ));
    };
    line("quiet", quiet);
    line("under attack", attacked);
    let ratio = |attacked: u64, quiet: u64| attacked as f64 / quiet.max(1) as f64;
    let (median, tail) =
        (ratio(attacked.median_us, quiet.median_us), ratio(attacked.p999_us, quiet.p999_us));
    show(format_args!("ratios {median:.1} and {tail:.1}; the broker has grown by {grown} KiB"));
    note("share, us: quiet median, 99.9 %", vec![quiet.median_us, quiet.p999_us]);
    note("share, us: attacked median, 99.9 %", vec![attacked.median_us, attacked.p999_us]);
    note("share: ratio of the medians, of the 99.9 %", vec![median, tail]);
    note("growth of the broker, KiB", grown);
}
