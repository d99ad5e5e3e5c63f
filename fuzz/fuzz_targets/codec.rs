//! Everything that `dmashare-proto` decodes: what decodes is encoded again, and is the same.
//!
//! The first byte says as what the rest is read.

#![no_main]

use std::fmt::Debug;

use dmashare_proto::activity::Activity;
use dmashare_proto::codec::{self, DecodeError, HEADER, Header, Incoming};
use dmashare_proto::holders::{Holders, Kept};
use dmashare_proto::keeper::{self, Batch, ToKeeper};
use dmashare_proto::limits::MAX_MESSAGE;
use dmashare_proto::message::Allocate;
use dmashare_proto::report::UnplugReport;
use dmashare_proto::usage::Usage;
use dmashare_proto::{Request, linear};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((&what, bytes)) = data.split_first() else { return };
    match what {
        0 => request(bytes),
        1 => incoming(bytes),
        2 => of_keeper::<ToKeeper>(bytes),
        3 => of_keeper::<Batch>(bytes),
        4 => json::<UnplugReport>(bytes),
        5 => json::<Holders>(bytes),
        6 => json::<Kept>(bytes),
        7 => json::<Usage>(bytes),
        8 => json::<Activity>(bytes),
        9 => plan(bytes),
        _ => {}
    }
});

/// As many descriptors as the header states, so that most inputs are not refused for that.
fn stated_fds(bytes: &[u8]) -> usize {
    codec::decode_header(bytes).map_or(0, |header| header.fds.into())
}

fn request(bytes: &[u8]) {
    if bytes.len() > MAX_MESSAGE {
        return;
    }
    let fds = stated_fds(bytes);
    match codec::decode_request(bytes, fds) {
        Err(error) => refused(bytes, &error),
        Ok((header, message)) => {
            let again = codec::encode(&message, header.id, fds).expect("what was read is written");
            same_head(bytes, &again, header);
            assert_eq!(codec::decode_request(&again, fds), Ok((header, message)));
            assert!(codec::decode::<Request>(bytes, fds + 1).is_err(), "a descriptor too many");
        }
    }
}

fn incoming(bytes: &[u8]) {
    if bytes.len() > MAX_MESSAGE {
        return;
    }
    let fds = stated_fds(bytes);
    match codec::decode_incoming(bytes, fds) {
        Err(error) => refused(bytes, &error),
        Ok(message) => {
            let header = codec::decode_header(bytes).expect("it was read before");
            let again = match &message {
                Incoming::Reply(id, reply) => codec::encode(reply, *id, fds),
                // Of an event the id is not looked at.
                Incoming::Event(event) => codec::encode(event, header.id, fds),
            };
            let again = again.expect("what was read is written");
            same_head(bytes, &again, header);
            assert_eq!(codec::decode_incoming(&again, fds), Ok(message));
        }
    }
}

/// A refusal can be answered: it is of this protocol's codes, and has the id where there is one.
fn refused(bytes: &[u8], error: &DecodeError) {
    assert_ne!(error.error.code.name(), "unknown");
    assert_eq!(error.header.is_some(), bytes.len() >= HEADER);
}

/// Headers have one form. Bodies have numbers that can be written in more bytes than they need, so that
/// ours may be the shorter one.
fn same_head(bytes: &[u8], again: &[u8], header: Header) {
    assert_eq!(bytes[..HEADER], again[..HEADER]);
    assert!(again.len() <= bytes.len(), "{header:?} grows");
}

fn of_keeper<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = keeper::decode::<T>(bytes) else { return };
    let again = keeper::encode(&message).expect("what was read is written");
    assert!(again.len() <= bytes.len(), "it grows");
    assert_eq!(keeper::decode::<T>(&again).expect("what was written is read"), message);
}

fn json<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return };
    let again = serde_json::to_vec(&message).expect("what was read is written");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what was written is read"), message);
}

/// A layout that the broker makes: planes do not overlap, and rows fit into them.
fn plan(bytes: &[u8]) {
    let Ok(wanted) = postcard::from_bytes::<Allocate>(bytes) else { return };
    let Ok((layout, size)) = linear::plan(wanted) else { return };
    let mut end = 0;
    for (i, plane) in layout.planes.iter().enumerate() {
        assert!(u64::from(plane.offset) >= end, "plane {i} of {layout:?}");
        let (rows, row) = linear::rows(&layout, i).expect("what was planned has rows");
        assert!(row <= plane.stride, "plane {i} of {layout:?}");
        end = u64::from(plane.offset) + u64::from(plane.stride) * u64::from(rows);
    }
    assert!(end <= size, "{layout:?} does not fit {size}");
}
