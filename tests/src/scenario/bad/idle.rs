//! An idle broker makes no wake-up at all, but for its service manager's watchdog: ten seconds under strace
//! show no system call besides.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::hostile::{Bystanders, Raw};
use crate::scenario::Skip;
use crate::scenario::figures::{note, show};
use crate::{Role, World};

/// After strace has attached: until then it wakes what it attaches to.
const SETTLE_S: f64 = 3.0;
const SECONDS: f64 = 10.0;
/// When strace is told to let go: the settling, the ten seconds, and a slow machine's start.
const DURATION: &str = "16";

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    // Some traffic has passed, bad input among it; two clients are there beside the pair.
    let mut greeted = Raw::hello(&world.socket(), "idle")?;
    let _silent = Raw::connect(&world.socket())?;
    for byte in 1..=5 {
        pair.exchange(byte)?;
    }
    world.bus().until("all clients on the bus", crate::BOUND, |bus| {
        Ok((bus.clients()?.len() == 4).then_some(()))
    })?;
    let woken = traced(world.broker()?.0, || greeted.devices().map(drop))?;
    note("system calls of the idle broker in ten seconds", woken.len());
    ensure!(woken.is_empty(), "the idle broker was awake: {woken:#?}");
    pair.exchange(9)?;
    Ok(())
}

/// A turn for the watchdog: the timer, the reactor and back, the message. All within a moment of the message.
const TURN_S: f64 = 0.5;
const MOST_OF_A_TURN: usize = 24;

/// What strace saw in the ten seconds, without a turn for the watchdog, which systemd asks for. Before them it is given something to see.
fn traced(pid: i32, request: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let file = tempfile::NamedTempFile::new()?;
    let child = Command::new("timeout")
        .args(["--signal=INT", DURATION, "strace", "-f", "-ttt", "-o"])
        .arg(file.path())
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.context("timeout (package coreutils)")?;
    let mut messages = BufReader::new(child.stderr.take().context("its messages")?).lines();
    let first = messages.next().context("strace said nothing")??;
    if !first.contains("attached") {
        child.wait()?;
        return Err(Skip(format!("strace cannot attach: {first}")).into());
    }
    let attached = now()?;
    request()?;
    // It ends when it is told to; until then nothing is to happen.
    messages.map_while(Result::ok).for_each(drop);
    child.wait()?;
    let (begin, end) = (attached + SETTLE_S, attached + SETTLE_S + SECONDS);
    let text = std::fs::read_to_string(file.path())?;
    show(format_args!("{first}; {} lines, with attaching and letting go", text.lines().count()));
    let between = |begin: f64, end: f64| {
        let in_time = move |line: &&str| {
            let time = line.split_ascii_whitespace().nth(1).and_then(|time| time.parse().ok());
            time.is_none_or(|time: f64| (begin..end).contains(&time))
        };
        text.lines().filter(in_time).map(str::to_owned).collect::<Vec<_>>()
    };
    let answer = between(attached, begin);
    ensure!(answer.iter().any(|line| line.contains("sendmsg")), "strace sees nothing: {text}");
    let time_of = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<f64>().ok();
    let fed: Vec<f64> =
        text.lines().filter(|line| line.contains("\"WATCHDOG=1")).filter_map(time_of).collect();
    let is_turn = |line: &str| {
        time_of(line).is_some_and(|at| fed.iter().any(|fed| (fed - at).abs() < TURN_S))
    };
    let (turn, woken): (Vec<_>, Vec<_>) =
        between(begin, end).into_iter().partition(|line| is_turn(line));
    ensure!(turn.len() <= MOST_OF_A_TURN, "the watchdog takes more than its turn: {turn:#?}");
    show(format_args!("{} system calls were the watchdog's", turn.len()));
    Ok(woken)
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
