//! Two users, neither root: what one of them has, the other one does not learn of, by the socket or by the
//! bus. /proc shows processes of others, and no more than that they are there may be seen here.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use dmashare_proto::message::{
    Access, AttachFence, CreateTimeline, Direction, Inhibit, InhibitMode, PointAt, Policy, Reply,
    Request, SubmitPoint,
};
use dmashare_proto::{ErrorCode, ObjectId};
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::{ObjectManagerProxy, PropertiesProxy};
use zbus::names::InterfaceName;
use zbus::zvariant::Value;

use crate::bus::{NAME, ROOT};
use crate::hostile::objects::{grant, import};
use crate::hostile::{Raw, as_user, expect};
use crate::scenario::figures::show;
use crate::{BOUND, Buffer, Source, World};

/// daemon and bin, whom every Debian has: a bus lets in nobody whose groups it cannot look up.
const OWNER: u32 = 1;
const STRANGER: u32 = 2;
/// What nobody else is to read anywhere.
const CLIENT: &str = "a-name-of-ones-own";
const WHY: &str = "a-reason-of-ones-own";
/// After which the objects' ids are no number that is there by chance.
const MANY: usize = 1000;

pub(super) fn run(world: &mut World) -> Result<()> {
    let place = world.bus().now();
    let mut owner = as_user(OWNER, || Raw::hello(&world.socket(), CLIENT))?;
    let mut stranger = as_user(STRANGER, || Raw::hello(&world.socket(), "stranger"))?;
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let buffer = Buffer::make(&card, 16, 16)?;
    for _ in 0..MANY {
        let object = owner.export(&buffer)?.buffer;
        owner.release(object)?;
    }
    let exported = owner.export(&buffer)?.buffer;
    let for_oneself = owner.grant_to(exported, OWNER)?;
    let imported = owner.grant(exported, 1).and_then(|token| owner.import(token))?.0.import;
    let mut source = Source::endless(world.is_simulated())?;
    let fence = owner.share_fence(card.open()?.as_fd(), source.fd())?.fence;
    let create = CreateTimeline { policy: Policy::Auto, direction: Direction::Acquire };
    let node = card.open()?;
    let timeline = match owner.request(&Request::CreateTimeline(create), &[node.as_fd()])? {
        (Reply::Timeline(made), _) => made.timeline,
        (other, _) => anyhow::bail!("no timeline but {other:?}"),
    };
    let inhibit = Inhibit { device: None, mode: InhibitMode::Delay, why: WHY.to_owned() };
    let inhibitor = match owner.request(&Request::Inhibit(inhibit), &[])? {
        (Reply::Inhibited(object), _) => object,
        (other, _) => anyhow::bail!("no inhibitor but {other:?}"),
    };
    let objects = [exported, imported, fence, timeline, inhibitor];

    for object in objects {
        on_the_socket(&mut stranger, object).with_context(|| format!("object {object}"))?;
    }
    let error = stranger.refused(&import(for_oneself), &[])?;
    expect(&error, ErrorCode::BAD_TOKEN, &["the token"])?;
    ensure!(!error.message.contains(&format!("user {OWNER}")), "it says for whom: {error}");

    // An eject finds the owner in the way, and says so to who asked for it: root.
    let dry = [("dry-run", Value::from(true)), ("timeout-ms", Value::from(1000_u32))];
    let job = world.bus().eject(device, &dry)?.map_err(|why| anyhow::anyhow!("{why:?}"))?;
    let (outcome, message) = job.wait_ended(BOUND)?;
    let pid = std::process::id().to_string();
    ensure!(outcome == "refused" && message.contains(&pid), "{outcome}: {message}");

    let see = |uid| on_the_bus(world, uid, async |bus| all_of(bus, &job.path).await);
    let (mine, theirs) = (see(OWNER)?, see(STRANGER)?);
    for word in [CLIENT, WHY, &format!("U64({inhibitor})")] {
        ensure!(mine.contains(word), "its own user does not see {word}:\n{mine}");
        ensure!(!theirs.contains(word), "another user sees {word}:\n{theirs}");
    }
    for (what, text) in [("another user sees", &theirs), ("its own user sees of root's", &mine)] {
        ensure!(!text.contains(&message), "{what} whom the eject found:\n{text}");
    }
    for object in objects {
        ensure!(!says_id(&theirs, object), "another user sees the object {object}:\n{theirs}");
    }
    // Its own connection is of this process too; the owner's has none for it.
    let hidden = "\"Pid\": OwnedValue(U32(0))";
    ensure!(theirs.contains(hidden), "another user sees the process:\n{theirs}");
    ensure!(!mine.is_empty() && mine.contains(&format!("U32({pid})")), "not its own:\n{mine}");
    on_the_bus(world, STRANGER, async |bus| no_causes(bus, &objects).await)?;

    // What everybody hears.
    let heard = world.bus().heard(place)?.join("\n");
    ensure!(heard.contains("Client1"), "no signal was heard: {heard}");
    for word in [CLIENT, WHY, message.as_str(), &format!("U32({pid})")] {
        ensure!(!heard.contains(word), "everybody hears {word}:\n{heard}");
    }
    for object in objects {
        ensure!(!says_id(&heard, object), "everybody hears of the object {object}:\n{heard}");
    }
    show(format_args!("{} objects, {} bytes seen of them by another", objects.len(), theirs.len()));

    // All of it is as it was.
    source.signal()?;
    for object in objects.into_iter().rev() {
        owner.release(object)?;
    }
    stranger.devices().map(drop)
}

/// Each request that names an object: there is none of that id for the stranger.
fn on_the_socket(stranger: &mut Raw, object: ObjectId) -> Result<()> {
    let at = PointAt { timeline: object, point: 1 };
    let attach =
        |fence, buffer| Request::AttachFence(AttachFence { fence, buffer, access: Access::Read });
    for request in [
        Request::Release(object),
        Request::QueryFence(object),
        grant(object, 1, 1000),
        Request::PromisePoint(at),
        Request::SubmitPoint(SubmitPoint { to: at, deadline_ms: 0 }),
        Request::QueryPoint(at),
        Request::WaitPoint(at),
        attach(object, object),
    ] {
        let error = stranger.refused(&request, &[])?;
        expect(&error, ErrorCode::UNKNOWN_OBJECT, &[&format!("{object}")])
            .with_context(|| request.name())?;
    }
    Ok(())
}

/// Whether a value, or a JSON text in one, has this id.
fn says_id(text: &str, object: ObjectId) -> bool {
    let id = object.0;
    text.contains(&format!("U64({id})"))
        || [",", "}", "]"].iter().any(|end| text.contains(&format!(":{id}{end}")))
}

/// Asks on the bus, on which the kernel has told that a user connected.
fn on_the_bus<T>(
    world: &World,
    uid: u32,
    ask: impl AsyncFnOnce(Connection) -> Result<T>,
) -> Result<T> {
    let address = world.bus_address();
    let path = address.strip_prefix("unix:path=").unwrap_or("/run/dbus/system_bus_socket");
    let stream = as_user(uid, || Ok(UnixStream::connect(path)?))?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::from_std(stream)?;
        ask(Builder::unix_stream(stream).user_id(uid).build().await?).await
    })
}

/// All that a caller sees on the bus, as text.
async fn all_of(bus: Connection, job: &str) -> Result<String> {
    let manager = ObjectManagerProxy::new(&bus, NAME, ROOT).await?;
    let objects = manager.get_managed_objects().await?;
    let mut text = format!("{objects:?}");
    let mut places = vec![(ROOT.to_owned(), NAME.to_owned())];
    places.push((job.to_owned(), "org.dmashare.Job1".to_owned()));
    for (path, interfaces) in &objects {
        places.extend(interfaces.keys().map(|name| (path.to_string(), name.to_string())));
    }
    for (path, interface) in places {
        let properties = PropertiesProxy::new(&bus, NAME, path.clone()).await?;
        let all = properties.get_all(InterfaceName::try_from(interface.as_str())?).await?;
        text += &format!("\n{path} {interface}: {all:?}");
    }
    for method in ["GetReports", "GetActivity", "Probe"] {
        let reply = bus.call_method(Some(NAME), ROOT, Some(NAME), method, &()).await?;
        text += &format!("\n{method}: {}", reply.body().deserialize::<String>()?);
    }
    Ok(text)
}

async fn no_causes(bus: Connection, objects: &[ObjectId]) -> Result<()> {
    for object in objects {
        let body = (object.0, 0_u64);
        let answer = bus.call_method(Some(NAME), ROOT, Some(NAME), "GetCause", &body).await;
        let Err(zbus::Error::MethodError(name, ..)) = answer else {
            anyhow::bail!("GetCause of {object}: {answer:?}");
        };
        ensure!(name.ends_with(".UnknownObject"), "GetCause of {object}: {name}");
    }
    Ok(())
}
