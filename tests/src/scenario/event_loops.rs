//! Tasks of tokio and sources of calloop wait for fences, a point, a loss and events, over an unplug whose
//! sources never end: each is told what there is to tell, and nobody waits on.

use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use calloop::EventLoop;
use dmashare::{
    Cause, Connection, ConnectionSource, Device, DeviceId, Direction, Error, Event, FenceError,
    FenceSource, FenceStatus, Grant, ImportedFence, Policy, SharedFence, Timeline,
};
use dmashare_uapi::sync_file::Status;

use super::local::{Local, told};
use crate::{BOUND, Source, Unplug, World};

/// What either waits for: a fence that ends well, and one whose source never ends.
struct Fences {
    ends: ImportedFence,
    fails: ImportedFence,
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let local = Local::new(world)?;
    let looper = world.connect("looper")?;
    let (mut ending, endless) =
        (Source::endless(world.is_simulated())?, Source::endless(world.is_simulated())?);
    let shared = (local.share(ending.fd())?, local.share(endless.fd())?);
    let fences = |importer: &Connection| -> Result<Fences> {
        let import = |fence: &SharedFence| -> Result<ImportedFence> {
            Ok(importer.import_fence(local.exporter.grant(fence, Grant::default())?)?)
        };
        Ok(Fences { ends: import(&shared.0)?, fails: import(&shared.1)? })
    };
    let (tasks, sources) = (fences(&local.importer)?, fences(&looper)?);

    let node = local.card.open_render()?;
    let (policy, direction) = (Policy::Auto, Direction::Acquire);
    let made = local.exporter.create_timeline(node.as_fd(), policy, direction)?;
    made.promise(1)?;
    let token = local.exporter.grant(&made, Grant::default())?;
    let timeline = local.importer.import_timeline(token)?;

    let devices = local.importer.devices()?;
    let device = devices.into_iter().map(|info| info.device).find(|it| it.id() == local.device);
    let device = device.context("the device is not there")?;

    thread::scope(|scope| {
        let (waits, waiting) = channel();
        let of_tokio = scope.spawn({
            let (waits, importer, timeline, device) =
                (waits.clone(), &local.importer, &timeline, &device);
            move || by_tokio(importer, &tasks, timeline, device, &waits)
        });
        let id = local.device;
        let of_calloop = scope.spawn(move || by_calloop(looper, sources, id, &waits));
        // Whichever cannot wait has dropped its end, and says why when it is joined.
        let all_wait = (0..2).all(|_| waiting.recv_timeout(BOUND).is_ok());
        if all_wait {
            ending.signal()?;
            // Its answer is newer than that end; the loss would overtake it else.
            let told = shared.0.query()?;
            ensure!(matches!(told, FenceStatus::Ok { .. }), "the broker says {told:?}");
            world.unplug(Unplug::Remove)?;
        }
        let join = |it: thread::ScopedJoinHandle<'_, Result<()>>, what: &str| {
            it.join().map_err(|_| anyhow!("{what} panicked"))?.with_context(|| what.to_owned())
        };
        join(of_tokio, "tasks of tokio")?;
        join(of_calloop, "sources of calloop")?;
        ensure!(all_wait, "not all have waited");
        Ok(())
    })?;

    ensure!(endless.status()? == Status::Pending, "the source ended by itself; this shows nothing");
    told(&local.exporter, local.device)?.acknowledge()?;
    world.wait_gone(local.device)
}

/// Five waits at once, on one thread.
fn by_tokio(
    importer: &Connection,
    fences: &Fences,
    timeline: &Timeline,
    device: &Device,
    waits: &Sender<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut events = importer.events()?;
        let lost_event = async {
            loop {
                let lost =
                    events.next().await?.into_iter().find_map(|event| lost_of(event, device.id()));
                if let Some(lost) = lost {
                    return lost.acknowledge();
                }
            }
        };
        // A wait that is given up is in nobody's way.
        ensure!(
            tokio::time::timeout(Duration::ZERO, timeline.wait_async(1)).await.is_err(),
            "a point that nobody submitted is over"
        );
        // Polled in their order, so all of them wait when the last has its turn.
        let all = async {
            tokio::join!(
                biased;
                fences.ends.wait_async(),
                fences.fails.wait_async(),
                timeline.wait_async(1),
                importer.lost(device),
                lost_event,
                async { waits.send(()) }
            )
        };
        let all = tokio::time::timeout(BOUND, all).await.context("somebody waits on")?;
        let (ends, fails, point, lost, event, said) = all;
        said?;
        judge(&ends?, &fails?)?;
        match point {
            Err(Error::Fence(error)) => by_the_unplug(&error)?,
            other => return Err(anyhow!("the promised point is {other:?}")),
        }
        lost?;
        Ok(event?)
    })
}

/// What the callbacks were given.
#[derive(Default)]
struct Seen {
    ends: Option<Result<FenceStatus, Error>>,
    fails: Option<Result<FenceStatus, Error>>,
    acknowledged: Option<Result<(), Error>>,
    error: Option<Error>,
}

fn by_calloop(
    connection: Connection,
    fences: Fences,
    device: DeviceId,
    waits: &Sender<()>,
) -> Result<()> {
    let mut event_loop = EventLoop::<Seen>::try_new()?;
    let handle = event_loop.handle();
    let source = ConnectionSource::new(connection);
    let connected = handle.insert_source(source, move |event, (), seen: &mut Seen| match event {
        Ok(event) => {
            if let Some(lost) = lost_of(event, device) {
                seen.acknowledged = Some(lost.acknowledge());
            }
        }
        Err(error) => seen.error = Some(error),
    });
    connected.map_err(|error| error.error)?;
    let ends =
        handle.insert_source(FenceSource::new(fences.ends)?, |status, (), seen: &mut Seen| {
            seen.ends = Some(status);
        });
    ends.map_err(|error| error.error)?;
    let fails =
        handle.insert_source(FenceSource::new(fences.fails)?, |status, (), seen: &mut Seen| {
            seen.fails = Some(status);
        });
    fails.map_err(|error| error.error)?;

    let mut seen = Seen::default();
    event_loop.dispatch(Duration::ZERO, &mut seen)?;
    ensure!(seen.ends.is_none() && seen.fails.is_none(), "a pending fence was told");
    waits.send(())?;
    let end = Instant::now() + BOUND;
    while seen.ends.is_none() || seen.fails.is_none() || seen.acknowledged.is_none() {
        if let Some(error) = seen.error {
            return Err(error.into());
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "somebody was not told");
        event_loop.dispatch(left, &mut seen)?;
    }
    seen.acknowledged.context("no loss")??;
    judge(&seen.ends.context("no end")??, &seen.fails.context("no failure")??)
}

fn lost_of(event: Event, device: DeviceId) -> Option<dmashare::Lost> {
    match event {
        Event::DeviceLost(lost) if lost.device() == device => Some(lost),
        _ => None,
    }
}

fn judge(ends: &FenceStatus, fails: &FenceStatus) -> Result<()> {
    ensure!(matches!(ends, FenceStatus::Ok { .. }), "the work is done, and the fence is {ends:?}");
    match fails {
        FenceStatus::Failed(error) => by_the_unplug(error),
        other => Err(anyhow!("its device is gone, and the fence is {other:?}")),
    }
}

fn by_the_unplug(error: &FenceError) -> Result<()> {
    ensure!(
        error.cause == Some(Cause::Unplugged) && error.errno() == libc::ENODEV,
        "it failed by the unplug, and says {error:?}"
    );
    Ok(())
}
