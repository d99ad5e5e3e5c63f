//! Floods of messages and of connections.

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::limits::MAX_MESSAGE;
use dmashare_proto::message::Request;

use crate::World;
use crate::hostile::objects::{grant, import};
use crate::hostile::pace::{amount, under_attack};
use crate::hostile::raw::header;
use crate::hostile::{Came, Raw, expect};

/// Clients that flood at the same time: more than one turn of the broker's has room for.
const SENDERS: usize = 16;
/// Messages at a time, before their answers are read.
const BURST: usize = 64;

/// The smallest messages that there are, good ones and others, as fast as they go.
pub(super) fn tiny(world: &mut World) -> Result<()> {
    let messages = amount(world, 50_000, 5_000)?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "tiny")?;
        let unknown = header(0x7ffe, 0, 0, u64::MAX);
        for _ in 0..messages / BURST {
            let (_, good) = raw.encoded(&Request::ListDevices(()), 0)?;
            for _ in 0..BURST / 2 {
                raw.send_bytes(&good, &[])?;
                raw.send_bytes(&unknown, &[])?;
            }
            answers(&mut raw)?;
        }
        Ok(())
    })
}

/// The answers to a burst are read, so that the client is not one that does not.
fn answers(raw: &mut Raw) -> Result<()> {
    for _ in 0..BURST {
        ensure!(matches!(raw.came()?, Came::Message(..)), "disconnected, though it reads");
    }
    Ok(())
}

/// The same from many at one time.
pub(super) fn many_senders(world: &mut World) -> Result<()> {
    let messages = amount(world, 30_000, 5_000)?;
    under_attack(world, || {
        let mut raws = (0..SENDERS)
            .map(|_| Raw::hello(&world.socket(), "one of many"))
            .collect::<Result<Vec<_>>>()?;
        for _ in 0..messages / SENDERS / BURST {
            for raw in &mut raws {
                let (_, bytes) = raw.encoded(&Request::ListDevices(()), 0)?;
                for _ in 0..BURST {
                    raw.send_bytes(&bytes, &[])?;
                }
            }
            for raw in &mut raws {
                answers(raw)?;
            }
        }
        Ok(())
    })
}

/// As long as a message may be, and longer, which is the end of the connection.
pub(super) fn largest(world: &mut World) -> Result<()> {
    let messages = amount(world, 2_000, 200)?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "large")?;
        for _ in 0..messages / BURST {
            let (_, mut bytes) = raw.encoded(&import(dmashare_proto::Token([7; 16])), 0)?;
            bytes.resize(MAX_MESSAGE, 0xee);
            for _ in 0..BURST {
                raw.send_bytes(&bytes, &[])?;
            }
            answers(&mut raw)?;
        }
        raw.send_bytes(&vec![2; 8 * MAX_MESSAGE], &[])?;
        let error = raw.end()?.context("closed without a word")?;
        expect(&error, ErrorCode::TOO_LARGE, &[])
    })
}

/// Messages that end before they should, at each byte in turn; those without a header end the
/// connection.
pub(super) fn halves(world: &mut World) -> Result<()> {
    let rounds = amount(world, 500, 30)?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "half")?;
        let request = grant(dmashare_proto::ObjectId(1 << 40), 300, 1 << 20);
        for _ in 0..rounds {
            let (_, whole) = raw.encoded(&request, 0)?;
            for len in 16..whole.len() {
                let (id, bytes) = raw.encoded(&request, 0)?;
                let error = raw.bytes_refused(&bytes[..len], &[], id)?;
                expect(&error, ErrorCode::MALFORMED, &["does not decode"])?;
            }
        }
        for len in 1..16 {
            let mut raw = Raw::hello(&world.socket(), "half a header")?;
            let (_, bytes) = raw.encoded(&request, 0)?;
            let error = raw.bytes_refused(&bytes[..len], &[], 0)?;
            expect(&error, ErrorCode::MALFORMED, &[])?;
            ensure!(raw.end()?.is_none(), "two answers to half a header");
        }
        Ok(())
    })
}

/// Connections, one after the other: some say nothing, some are greeted, some leave in between.
pub(super) fn connects(world: &mut World) -> Result<()> {
    let connections = amount(world, 10_000, 500)?;
    under_attack(world, || {
        for i in 0..connections {
            let mut raw = Raw::connect(&world.socket())?;
            match i % 3 {
                0 => {}
                1 => {
                    let (_, bytes) = raw.encoded(&Raw::hello_named("leaves"), 0)?;
                    raw.send_bytes(&bytes, &[])?;
                }
                _ => drop(raw.request(&Raw::hello_named("stays a while"), &[])?),
            }
        }
        Ok(())
    })
}
