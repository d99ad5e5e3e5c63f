//! A dma-buf goes from one process to another: through the broker, through bare relays, which are the
//! least that a process in the middle can do, and over D-Bus.
//!
//! Three processes each: this one exports, one is in the middle, one imports and says that it has it. What
//! is measured is the time from the first call here to that word.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result};
use dmashare::{Connection, ExportedBuffer, Grant, Importer, Token};
use dmashare_tests::{Buffer, World};

use crate::other::{Peer, say};
use crate::report::{Finding, Goal, Section};
use crate::turns::{Contestant, Timed, take_timed};

mod bus;
mod pipewire;
pub mod relay;

/// Shares a turn.
const BATCH: u32 = 20;
const WHAT: &str = "a share: export, and import in another process";

/// Measures it.
pub fn measure(world: &World, rounds: usize) -> Result<Section> {
    let buffer = Buffer::make(&world.egpu()?, 64, 64)?;
    let mut relayed = relay::Relayed::start(relay::Calls::One)?;
    let mut asked = relay::Relayed::start(relay::Calls::Two)?;
    let (mut keeping, mut brief) =
        (Brokered::start(world, &buffer)?, Brokered::start(world, &buffer)?);
    let mut all: Vec<Timed<'_>> = vec![
        contestant("a bare relay (epoll, recvmsg, sendmsg)", |times| {
            (0..times).for_each(|_| relayed.share(buffer.dma_buf.as_fd()));
        }),
        contestant("a bare relay that is asked for a token, and by it", |times| {
            (0..times).for_each(|_| asked.share(buffer.dma_buf.as_fd()));
        }),
        Timed {
            name: "dmashared: Export with a token, Import",
            run: Box::new(|| {
                let start = Instant::now();
                (0..BATCH).for_each(|_| keeping.share());
                let took = start.elapsed().as_nanos() as f64 / f64::from(BATCH);
                keeping.let_go();
                took
            }),
        },
        contestant("dmashared: the same, and both let go of it", |times| {
            (0..times).for_each(|_| {
                brief.share();
                brief.let_go();
            });
        }),
    ];
    let mut section = Section::default();
    let mut rivals = Vec::new();
    // Where every instruction is emulated, they are not: it would say nothing about them.
    let with_rivals = world.is_simulated();
    for (name, with) in bus::RIVALS.iter().filter(|_| with_rivals) {
        match bus::Shares::start(*with)? {
            Ok(mut shares) => {
                rivals.push((*name, all.len()));
                let run = move || shares.take(BATCH).expect("a share over D-Bus");
                all.push(Timed { name, run: Box::new(run) });
            }
            Err(why) => section.notes.push(format!("{name}: not measured: {why}.")),
        }
    }
    let mut linked = None;
    match with_rivals.then(pipewire::Links::start).transpose()? {
        None => {}
        Some(Ok(mut links)) => {
            linked = Some(all.len());
            let run = move || links.take().expect("a buffer over PipeWire");
            all.push(Timed { name: pipewire::NAME, run: Box::new(run) });
        }
        Some(Err(why)) => {
            section.notes.push(format!("{}: not measured: {why}.", pipewire::NAME));
        }
    }
    let times =
        take_timed("A share, from the export to the import in another process", rounds, all);
    let mut finding = |beside: &str, figure, goal| {
        section.findings.push(Finding::times(WHAT, beside, figure, goal));
    };
    finding("a bare relay", times.ratio(2, 0), Goal::AtMost(1.5));
    for (name, at) in rivals {
        finding(&format!("{name} (as fast)"), times.ratio(at, 2), Goal::AtLeast(2.5));
    }
    if let Some(at) = linked {
        finding(&format!("{} (as fast)", pipewire::NAME), times.ratio(at, 2), Goal::AtLeast(1.0));
    }
    section.tables.push(times.table());
    section.plots.push(times.plot("share.svg"));
    Ok(section)
}

fn contestant<'a>(name: &'static str, run: impl FnMut(u32) + 'a) -> Timed<'a> {
    Contestant { name, batch: BATCH, run: Box::new(run) }.into()
}

/// Through the broker: the token goes from here to the importer.
struct Brokered<'a> {
    exporter: Connection,
    buffer: &'a Buffer,
    tokens: UnixStream,
    importer: Peer,
    kept: Vec<ExportedBuffer>,
}

impl<'a> Brokered<'a> {
    fn start(world: &World, buffer: &'a Buffer) -> Result<Self> {
        let (tokens, its_tokens) = UnixStream::pair()?;
        let socket = world.socket();
        let socket = socket.to_str().context("a path in UTF-8")?;
        let importer = Peer::own(&["peer-of-broker", socket], OwnedFd::from(its_tokens))?;
        Ok(Self {
            exporter: world.connect("exporter")?,
            buffer,
            tokens,
            importer,
            kept: Vec::new(),
        })
    }

    fn share(&mut self) {
        let planes = [self.buffer.dma_buf.as_fd()];
        let (node, layout) = (self.buffer.node.as_fd(), &self.buffer.layout);
        let (export, token) = (self.exporter)
            .export_granted(node, layout, &planes, Grant::default())
            .expect("it is a dma-buf of the node's");
        self.tokens.write_all(&token.to_bytes()).expect("the importer");
        self.importer.has_it();
        self.kept.push(export);
    }

    /// Both let go of all that was shared.
    fn let_go(&mut self) {
        self.tokens.write_all(&LET_GO).expect("the importer");
        self.kept.clear();
        self.importer.has_it();
    }
}

/// Stands for a token where everything is to be let go of.
const LET_GO: [u8; 16] = [0; 16];

/// The importer behind the broker.
pub fn peer_of_broker(socket: &std::path::Path) -> Result<()> {
    let connection = Connection::builder().name("importer").connect_to(socket)?;
    let (mut tokens, mut words) = (std::io::stdin(), std::io::stdout());
    say(&mut words)?;
    let mut kept = Vec::new();
    let mut bytes = [0; 16];
    while tokens.read(&mut bytes)? == bytes.len() {
        if bytes == LET_GO {
            kept.clear();
        } else {
            kept.push(connection.import(Token::from_bytes(bytes), Importer::Cpu)?);
        }
        say(&mut words)?;
    }
    Ok(())
}
