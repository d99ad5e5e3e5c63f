//! What is wrong is refused, and the rest goes on.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, Direction, Error, ErrorCode, PointState, Policy};
use dmashare_uapi::syncobj::Syncobj;

use super::{Line, end, failed, is_ok, state};
use crate::{Backend, Role, Source, World};

fn refused<T>(what: &str, result: Result<T, Error>, code: ErrorCode, says: &str) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} was not refused"))?;
    let text = error.to_string();
    ensure!(error.code() == Some(code), "{what}: {text} ({:?})", error.code());
    ensure!(text.contains(says), "{what}: {text:?} does not say {says:?}");
    Ok(())
}

pub(in crate::scenario) fn run(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Acquire)?;
    let simulated = world.is_simulated();
    let node = line.node.as_fd();
    let mut source = Source::endless(simulated)?;
    let submit = |point, deadline| line.made.submit(point, node, source.fd(), deadline);

    line.made.promise(10)?;
    refused("promised twice", line.made.promise(10), ErrorCode::BAD_VALUE, "10 is promised")?;
    refused(
        "promised below",
        line.made.promise(3),
        ErrorCode::BAD_VALUE,
        "the last promise is 10",
    )?;
    refused("promised 0", line.made.promise(0), ErrorCode::BAD_VALUE, "a point is 1 to")?;
    refused("promised 2^63", line.made.promise(1 << 63), ErrorCode::BAD_VALUE, "a point is 1 to")?;
    submit(5, None)?;
    refused("submitted twice", submit(5, None), ErrorCode::BAD_VALUE, "not above the last")?;
    refused("submitted below", submit(4, None), ErrorCode::BAD_VALUE, "only grow")?;
    refused("submitted 0", submit(0, None), ErrorCode::BAD_VALUE, "a point is 1 to")?;
    refused("submitted 2^63", submit(1 << 63, None), ErrorCode::BAD_VALUE, "a point is 1 to")?;
    let day = Some(Duration::from_secs(24 * 60 * 60));
    refused("a deadline too long", submit(6, day), ErrorCode::BAD_VALUE, "deadline")?;

    let zero = submit(6, Some(Duration::ZERO));
    ensure!(matches!(zero, Err(Error::InvalidArgument(_))), "a deadline of zero: {zero:?}");

    // By who may not.
    let by_importer = line.imported.submit(6, node, source.fd(), None);
    refused("submitted by an importer", by_importer, ErrorCode::WRONG_OBJECT, "maker alone")?;
    let by_importer = line.imported.promise(11);
    refused("promised by an importer", by_importer, ErrorCode::WRONG_OBJECT, "maker alone")?;
    let granted = line.other.grant(&line.imported, dmashare::Grant::default());
    refused("granted by an importer", granted, ErrorCode::WRONG_OBJECT, "import")?;
    let release = Line::new(world, Direction::Release)?;
    let by_maker = release.made.submit_done(1);
    refused("released by the maker", by_maker, ErrorCode::WRONG_OBJECT, "by an importer")?;
    let pass = line.maker.create_timeline(node, Policy::Pass, Direction::Acquire);
    refused("raw fences of the eGPU", pass, ErrorCode::BAD_VALUE, "raw fence")?;

    // What is no source.
    let pipe = std::io::pipe()?;
    let wrong = line.made.submit(6, node, pipe.0.as_fd(), None);
    refused("a pipe as a source", wrong, ErrorCode::WRONG_FD, "sync_file")?;
    if !simulated {
        let stay = world.card(Role::Stay)?.open_render()?;
        let syncobj = Syncobj::create(stay.as_fd(), false)?.to_fd()?;
        let wrong = line.made.submit(6, node, syncobj.as_fd(), None);
        refused("a syncobj as a source", wrong, ErrorCode::WRONG_FD, "syncobj")?;
    }

    // What has ended is a source as any other; one source may stand for two points.
    let mut done = Source::endless(simulated)?;
    done.signal()?;
    line.made.submit(6, node, done.fd(), None)?;
    let mut broken = Source::endless(simulated)?;
    let errno = broken.fail()?;
    line.made.submit(7, node, broken.fd(), None)?;
    submit(8, None)?;
    state(&line.imported, 5, PointState::Pending)?;
    let deadline = Some(Duration::from_millis(100));
    let endless = Source::endless(simulated)?;
    let late = Line::new(world, Direction::Acquire)?;
    late.made.submit(1, late.node.as_fd(), endless.fd(), deadline)?;
    failed(end(&late.imported, 1)?, Cause::TimedOut)?;

    source.signal()?;
    is_ok(end(&line.imported, 5)?)?;
    is_ok(end(&line.imported, 6)?)?;
    failed(end(&line.imported, 7)?, Cause::Exporter(errno))?;
    is_ok(end(&line.imported, 8)?)?;
    if world.backend() == Backend::SwSync {
        // Its source had failed before it came: the error is on the point all the same, for the guard
        // was in place first. Seen on the last point alone.
        let last = Line::new(world, Direction::Acquire)?;
        let mut broken = Source::endless(false)?;
        broken.fail()?;
        last.made.submit(1, last.node.as_fd(), broken.fd(), None)?;
        failed(end(&last.imported, 1)?, Cause::Exporter(errno))?;
        let sync_file = super::exported(world, &last.imported, 1)?;
        ensure!(super::status(&sync_file)? == -libc::ENOENT, "the error is not on the point");
    }
    Ok(())
}
