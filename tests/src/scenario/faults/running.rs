//! Faults while the broker runs.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use dmashare::{
    Cause, Connection, DeviceId, Direction, Error, FenceError, FenceOptions, FenceStatus, Grant,
    Importer, Policy,
};

use super::calls::FAULTS;
use crate::hostile::Bystanders;
use crate::scenario::figures::{note, show};
use crate::scenario::strace::{Strace, Whom, errors};
use crate::{BOUND, Buffer, Role, Source, Unplug, World};

/// No fence may have to wait for its deadline.
pub(super) const CONFIG: &str = "[fence]\ndeadline_ms = 40000\n";
/// Tokens that a client has granted of one buffer.
const TOKENS: usize = 40;
/// From which call on, and every how many; counted for each thread, of which some make one such call
/// only. A variable asks for more of them.
const WIDE: &str = "DMASHARE_FAULTS_WIDE";
const FEW: &[(u32, u32)] = &[(1, 3), (2, 3)];
/// A round has more than one chance to meet a call that is made now and then.
const ROUNDS: u32 = 3;

fn patterns() -> Vec<(u32, u32)> {
    if std::env::var_os(WIDE).is_none() {
        return FEW.to_vec();
    }
    let some = (1..=8).map(|first| (first, 9));
    some.chain([(1, 2), (1, 3), (2, 3), (3, 5), (1, 20)]).collect()
}

/// What a client met, and how often.
type Met = BTreeMap<String, u32>;

pub(super) fn run<const N: usize>(world: &mut World) -> Result<()> {
    let fault = &FAULTS[N];
    let broker = world.broker()?;
    // On a card that stays.
    let pair = Bystanders::start(world, Role::Stay)?;
    let mut device = world.device(&world.egpu()?)?.id;
    let (mut all, mut met) = (0, Met::new());
    for error in fault.errors {
        for pattern in patterns() {
            let words = errors(fault.call, error, pattern);
            let injected = one(world, &pair, &mut device, fault.call, &words, &mut met);
            all += injected.with_context(|| words.clone())?;
            ensure!(world.broker()? == broker, "{words}: the broker is another process");
            let log = world.log_of_run()?;
            ensure!(!log.contains("panicked"), "{words}: the broker panicked");
        }
    }
    note("calls made to fail", all);
    show(format_args!("{all} calls made to fail; clients met {met:?}"));
    ensure!(all > 0, "the broker made no such call: no test of anything");
    Ok(())
}

fn one(
    world: &World,
    pair: &Bystanders,
    device: &mut DeviceId,
    call: &str,
    words: &str,
    met: &mut Met,
) -> Result<usize> {
    let broker = Whom::Process(world.broker()?.0);
    let injection = Strace::attach(broker, call, Some(words))?;
    for _ in 0..ROUNDS {
        if let Err(error) = round(world) {
            *met.entry(said(&error)?).or_default() += 1;
        }
    }
    world.unplug(Unplug::Remove)?;
    // A loss that could not be read at once is not forgotten.
    world.wait_gone(*device)?;
    // strace is to let go of a broker that rests: a call that it was just about to make fail fails with
    // ENOSYS then.
    world.broker()?.at_rest(BOUND)?;
    let seen = injection.stop()?;
    let injected = seen.lines().filter(|line| line.contains("(INJECTED)")).count();
    (_, *device) = world.replug().context("a card that comes afterwards")?;
    round(world).context("a client that comes afterwards")?;
    pair.undisturbed(world).context("the others")?;
    Ok(injected)
}

/// What an error says, which says what it is, whatever it is.
fn said(error: &anyhow::Error) -> Result<String> {
    if let Some(error) = error.downcast_ref::<Error>() {
        ensure!(error.errno() != 0, "an error that says nothing: {error:?}");
        return Ok(error.to_string());
    }
    let fence = error.downcast_ref::<FenceError>();
    let fence = fence.with_context(|| format!("no error of the broker's: {error:#}"))?;
    ensure!(fence.cause != Some(Cause::TimedOut), "a fence that nobody watched");
    Ok(fence.to_string())
}

/// A client's life: everything that makes the broker do something.
fn round(world: &World) -> Result<()> {
    let card = world.egpu()?;
    let connection = Connection::builder().name("faulted").connect_to(world.socket())?;
    let buffer = Buffer::make(&card, 16, 16)?;
    let node = buffer.node.as_fd();
    let export = connection.export(node, &buffer.layout, &[buffer.dma_buf.as_fd()])?;
    // Random bytes are drawn for many tokens at once.
    for _ in 1..TOKENS {
        connection.grant(&export, Grant::default())?;
    }
    let token = connection.grant(&export, Grant::default())?;
    let import = connection.import(token, Importer::Cpu)?;
    fence(&connection, &buffer, card.simulated)?;
    let neutral = connection.allocate(64, 64, buffer.layout.fourcc)?;
    let timeline = connection.create_timeline(node, Policy::Auto, Direction::Acquire)?;
    drop((timeline, neutral, import, export));
    Ok(())
}

/// A fence that is pending when it is shared, and one that has ended.
fn fence(connection: &Connection, buffer: &Buffer, simulated: bool) -> Result<()> {
    let node = buffer.node.as_fd();
    let mut source = Source::endless(simulated)?;
    let shared = connection.share_fence(node, source.fd(), FenceOptions::default())?;
    let token = connection.grant(&shared, Grant::default())?;
    let imported = connection.import_fence(token)?;
    source.signal()?;
    match imported.wait(Some(BOUND))? {
        FenceStatus::Ok { .. } => Ok(()),
        FenceStatus::Failed(error) => Err(error.into()),
        FenceStatus::Pending => bail!("its source has ended, and it has not"),
    }
}
