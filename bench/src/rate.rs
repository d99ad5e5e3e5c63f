//! Shares a second of many clients at once. Each client is a process that exports, and imports what it has
//! exported, over and over.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use dmashare::{Connection, Grant, Importer};
use dmashare_tests::{Buffer, Role, World, clock::now_ns};
use tempfile::TempDir;

use crate::other::{Other, Peer, say};
use crate::report::{Finding, Goal, Plot, Row, Scale, Section, Series, Table};
use crate::share::relay::AskedClient;

/// So many clients, in turn.
const CLIENTS: [usize; 5] = [1, 4, 16, 64, 256];
/// As many as there are at most may connect.
pub const CONFIG: &str = "[limits]\nclients_per_uid = 512\n";
/// Long enough that all clients have begun.
const AHEAD: Duration = Duration::from_millis(50);

/// A client that shares when it is told to.
struct Client {
    _process: Other,
    words: UnixStream,
}

impl Client {
    fn start(words: &[&str]) -> Result<Self> {
        let (ours, its) = UnixStream::pair()?;
        let its_output = OwnedFd::from(its.try_clone()?);
        let process = Other::own(words, OwnedFd::from(its), its_output)?;
        let mut client = Self { _process: process, words: ours };
        client.words.read_exact(&mut [0]).context("a client did not start")?;
        Ok(client)
    }
}

/// What a client does: `share`, from the instant that comes from its input on, for as long as comes next.
fn serve(mut share: impl FnMut() -> Result<()>) -> Result<()> {
    let (mut orders, mut words) = (std::io::stdin(), std::io::stdout());
    share()?;
    say(&mut words)?;
    let mut order = [0; 16];
    while orders.read_exact(&mut order).is_ok() {
        let (start, length) = order.split_at(8);
        let start = u64::from_ne_bytes(start.try_into()?);
        let end = start + u64::from_ne_bytes(length.try_into()?);
        // All of them begin at that instant, which nothing else tells.
        std::thread::sleep(Duration::from_nanos(start.saturating_sub(now_ns())));
        let mut count = 0_u64;
        while now_ns() < end {
            share()?;
            count += 1;
        }
        words.write_all(&count.to_ne_bytes())?;
        words.flush()?;
    }
    Ok(())
}

/// A client of the relay's.
pub fn client_of_relay(path: &Path) -> Result<()> {
    let client = AskedClient::connect(path)?;
    let buffer = dmashare_uapi::sim::buffer(4096)?;
    serve(|| client.share(buffer.as_fd()))
}

/// A client of the broker's, with a node of the card's.
pub fn client_of_broker(socket: &Path, node: &Path) -> Result<()> {
    let connection = Connection::builder().name("client").connect_to(socket)?;
    let node = std::fs::File::options().read(true).write(true).open(node)?;
    let buffer = Buffer::make_on(node.into(), true, 16, 16)?;
    serve(|| {
        let (node, planes) = (buffer.node.as_fd(), [buffer.dma_buf.as_fd()]);
        let grant = Grant::default();
        let (export, token) = connection.export_granted(node, &buffer.layout, &planes, grant)?;
        drop(connection.import(token, Importer::Cpu)?);
        drop(export);
        Ok(())
    })
}

/// All of them at once; gives what they did a second.
fn together(clients: &mut [Client], slice: Duration) -> Result<f64> {
    let start = now_ns() + u64::try_from(AHEAD.as_nanos())?;
    let mut order = start.to_ne_bytes().to_vec();
    order.extend(u64::try_from(slice.as_nanos())?.to_ne_bytes());
    for client in &mut *clients {
        client.words.write_all(&order)?;
    }
    let mut all = 0;
    for client in clients {
        let mut count = [0; 8];
        client.words.read_exact(&mut count).context("a client has ended")?;
        all += u64::from_ne_bytes(count);
    }
    Ok(all as f64 / slice.as_secs_f64())
}

/// Measures it, in slices of this length.
pub fn measure(world: &World, rounds: usize, slice: Duration) -> Result<Section> {
    let folder = TempDir::new()?;
    let path = folder.path().join("relay");
    let text = |path: &Path| Ok::<_, anyhow::Error>(path.to_str().context("UTF-8")?.to_owned());
    let (relay_path, socket) = (text(&path)?, text(&world.socket())?);
    let node = text(world.card(Role::Egpu)?.nodes.last().context("a render node")?)?;
    let _relay = Peer::own(&["asked-relay-at", &relay_path], Stdio::null())?;
    let (mut of_relay, mut of_broker) = (Vec::new(), Vec::new());
    let mut rows = Vec::new();
    for many in CLIENTS {
        while of_relay.len() < many {
            of_relay.push(Client::start(&["client-of-relay", &relay_path])?);
            of_broker.push(Client::start(&["client-of-broker", &socket, &node])?);
        }
        let (mut relay, mut broker) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            relay.push(together(&mut of_relay, slice)?);
            broker.push(together(&mut of_broker, slice)?);
        }
        let (relay, broker) = (median(relay), median(broker));
        let figures = vec![relay, broker, broker / relay * 100.0];
        rows.push(Row { name: many.to_string(), figures });
    }
    Ok(section(rows, rounds, slice))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn section(rows: Vec<Row>, rounds: usize, slice: Duration) -> Section {
    const WHAT: &str = "shares a second";
    let at = |clients: usize| CLIENTS.iter().position(|it| *it == clients).map(|at| &rows[at]);
    let (few, many) = (at(16).expect("16 clients"), at(256).expect("256 clients"));
    let least = rows.iter().map(|row| row.figures[2]).fold(f64::INFINITY, f64::min);
    let findings = vec![
        Finding::new(
            &format!("{WHAT}, the least of 1 to 256 clients"),
            "a bare relay that is asked for a token, and by it",
            least,
            "%",
            Goal::AtLeast(70.0),
        ),
        Finding::times(
            &format!("{WHAT}, 256 clients"),
            "16 clients",
            many.figures[1] / few.figures[1],
            Goal::AtLeast(1.0),
        ),
    ];
    let series = |name: &str, column: usize| Series {
        name: name.to_owned(),
        points: (CLIENTS.iter().zip(&rows))
            .map(|(clients, row)| (*clients as f64, row.figures[column]))
            .collect(),
    };
    let plots = vec![Plot {
        file: "rate.svg".to_owned(),
        title: "Shares a second of many clients at once".to_owned(),
        x: ("clients".to_owned(), Scale::Logarithmic),
        y: WHAT.to_owned(),
        series: vec![series("a bare relay that is asked", 0), series("dmashared", 1)],
    }];
    let columns = ["a bare relay that is asked", "dmashared", "%"].map(str::to_owned).into();
    let title = format!(
        "Shares a second, by the number of clients ({rounds} turns of {slice:?} of each, in one run; \
         the medians)"
    );
    let tables = vec![Table { title, columns, rows }];
    Section { tables, findings, plots, notes: Vec::new() }
}
