//! The codec: every message survives a round trip, and nothing that is no message passes for one.

mod arbitrary;

use arbitrary::{any_event, any_header, any_reply, any_request};
use dmashare_proto::codec::{
    HEADER, Incoming, MessageSet, decode, decode_header, decode_incoming, decode_request, encode,
};
use dmashare_proto::limits::MAX_MESSAGE;
use dmashare_proto::message::{DeviceInfo, Hello};
use dmashare_proto::{ErrorCode, Event, Reply, Request, WireError};
use proptest::prelude::*;

/// Every cut of `bytes` is refused as malformed, and so is a byte too many.
fn refuses_other_lengths<M: MessageSet + std::fmt::Debug>(bytes: &[u8], fds: usize) {
    for len in 0..bytes.len() {
        let error = decode::<M>(&bytes[..len], fds).unwrap_err();
        assert_eq!(error.error.code, ErrorCode::MALFORMED, "cut to {len}");
        assert_eq!(error.header.is_some(), len >= HEADER, "cut to {len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    let error = decode::<M>(&longer, fds).unwrap_err();
    assert_eq!(error.error.code, ErrorCode::MALFORMED);
    assert_eq!(error.header, decode_header(bytes).ok(), "the answer needs the id");
}

proptest! {
    #[test]
    fn a_request_round_trips(message in any_request(), id: u64, fds in 0_usize..9) {
        let bytes = encode(&message, id, fds).unwrap();
        let (header, back) = decode_request(&bytes, fds).unwrap();
        prop_assert_eq!((header.kind, header.id, usize::from(header.fds)), (message.kind(), id, fds));
        prop_assert_eq!(back, message);
        refuses_other_lengths::<Request>(&bytes, fds);
    }

    #[test]
    fn a_reply_round_trips(message in any_reply(), id: u64, fds in 0_usize..9) {
        let bytes = encode(&message, id, fds).unwrap();
        prop_assert_eq!(decode_incoming(&bytes, fds).unwrap(), Incoming::Reply(id, message));
        refuses_other_lengths::<Reply>(&bytes, fds);
    }

    #[test]
    fn an_event_round_trips(message in any_event()) {
        let bytes = encode(&message, 0, 0).unwrap();
        prop_assert_eq!(decode_incoming(&bytes, 0).unwrap(), Incoming::Event(message));
        refuses_other_lengths::<Event>(&bytes, 0);
    }

    #[test]
    fn a_message_of_one_side_is_unknown_to_it(request in any_request(), reply in any_reply()) {
        let bytes = encode(&request, 1, 0).unwrap();
        prop_assert_eq!(decode_incoming(&bytes, 0).unwrap_err().error.code, ErrorCode::UNKNOWN_MESSAGE);
        let bytes = encode(&reply, 1, 0).unwrap();
        prop_assert_eq!(decode_request(&bytes, 0).unwrap_err().error.code, ErrorCode::UNKNOWN_MESSAGE);
    }

    #[test]
    fn another_number_of_fds_is_refused(message in any_request(), said in 0_usize..300, came in 0_usize..300) {
        prop_assume!(said != came);
        let bytes = encode(&message, 7, said).unwrap();
        let error = decode_request(&bytes, came).unwrap_err();
        prop_assert_eq!(error.error.code, ErrorCode::FD_COUNT);
        prop_assert_eq!(error.header.unwrap().id, 7);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), fds in 0_usize..3) {
        let _request = decode_request(&bytes, fds);
        let _incoming = decode_incoming(&bytes, fds);
    }

    /// A good header before a random body: most random bytes stop at the header. What decodes is
    /// what a sender may have meant: encoded and decoded again it is the same.
    #[test]
    fn random_bodies_never_panic(
        header in any_header(),
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(0xff_u8)], 0..200),
    ) {
        let mut bytes = header;
        bytes.extend_from_slice(&body);
        if let Ok((header, message)) = decode_request(&bytes, 0) {
            let again = encode(&message, header.id, 0).unwrap();
            prop_assert_eq!(decode_request(&again, 0).unwrap(), (header, message));
        }
        if let Ok(message) = decode_incoming(&bytes, 0) {
            let again = match &message {
                Incoming::Reply(id, reply) => encode(reply, *id, 0),
                Incoming::Event(event) => encode(event, 0, 0),
            };
            // Zeros on top of varints make a datagram longer than what they say, never shorter.
            prop_assert_eq!(decode_incoming(&again.unwrap(), 0).unwrap(), message);
        }
    }

    /// One wrong bit, anywhere: refused or another message, no panic.
    #[test]
    fn a_flipped_bit_never_panics(message in any_request(), at: prop::sample::Index, bit in 0_u8..8) {
        let mut bytes = encode(&message, 1, 0).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _request = decode_request(&bytes, 0);
    }
}

#[test]
fn reserved_bytes_are_refused_with_the_id() {
    for at in 4..8 {
        let mut bytes = encode(&Request::ListDevices(()), 9, 0).unwrap();
        bytes[at] = 1;
        let error = decode_request(&bytes, 0).unwrap_err();
        assert_eq!(error.error.code, ErrorCode::MALFORMED);
        assert_eq!(error.header.unwrap().id, 9);
    }
}

#[test]
fn a_length_beyond_the_datagram_allocates_nothing_of_that_size() {
    // Devices, with 2^64 - 1 elements; and a string of as many bytes in Hello.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let mut devices = encode(&Reply::Devices(vec![]), 1, 0).unwrap();
    devices.truncate(HEADER);
    devices.extend_from_slice(&huge);
    assert_eq!(decode_incoming(&devices, 0).unwrap_err().error.code, ErrorCode::MALFORMED);

    let hello = Hello { version_min: 1, version_max: 1, features: 0, name: String::new() };
    let mut hello = encode(&Request::Hello(hello), 1, 0).unwrap();
    hello.pop();
    hello.extend_from_slice(&huge);
    assert_eq!(decode_request(&hello, 0).unwrap_err().error.code, ErrorCode::MALFORMED);
}

#[test]
fn varints_are_bounded_by_their_type() {
    let release = |body: &[u8]| {
        let mut bytes = encode(&Request::ListDevices(()), 1, 0).unwrap();
        bytes[0] = 6;
        bytes.extend_from_slice(body);
        decode_request(&bytes, 0).map(|(_, message)| message)
    };
    let id = |value| Request::Release(dmashare_proto::ObjectId(value));
    assert_eq!(release(&[0x7f]), Ok(id(127)));
    assert_eq!(release(&[0x80, 0x01]), Ok(id(128)));
    assert_eq!(release(&[0x80, 0x00]), Ok(id(0)), "zeros on top are no error");
    let nine = [0xff; 9];
    assert_eq!(release(&[&nine[..], &[0x01]].concat()), Ok(id(u64::MAX)));
    for beyond in [&[&nine[..], &[0x02]].concat()[..], &[&nine[..], &[0x80, 0x00]].concat()[..]] {
        assert_eq!(release(beyond).unwrap_err().error.code, ErrorCode::MALFORMED);
    }
}

#[test]
fn unknown_variants_bools_and_text_are_refused() {
    let refused = |kind: u16, body: &[u8]| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(body);
        let code = if kind < 0x8000 {
            decode_request(&bytes, 0).unwrap_err().error.code
        } else {
            decode_incoming(&bytes, 0).unwrap_err().error.code
        };
        assert_eq!(code, ErrorCode::MALFORMED, "{kind:#x} {body:02x?}");
    };
    refused(7, &[3, 0]); // ShareFence with a fourth policy
    refused(4, &[1, 2, 1, 1]); // Grant to a third kind of grantee
    refused(0x8009, &[3]); // a fourth fence state
    refused(0x8009, &[2, 7, 0]); // an eighth cause
    refused(1, &[1, 1, 0, 2, 0xc3, 0x28]); // a name that is not UTF-8
    // Imported, ending in a bool of 2; and with a device that neither is there nor is not.
    refused(0x8005, &[1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 2]);
    refused(0x8005, &[1, 1, 2, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1]);
}

#[test]
fn an_unknown_error_code_is_kept() {
    let error = WireError::new(ErrorCode(499), "from a later broker");
    let bytes = encode(&Reply::Error(error.clone()), 1, 0).unwrap();
    assert_eq!(
        decode_incoming(&bytes, 0).unwrap(),
        Incoming::Reply(1, Reply::Error(error.clone()))
    );
    assert_eq!(error.to_string(), "from a later broker (unknown)");
}

#[test]
fn a_message_beyond_the_limit_is_not_sent() {
    let hello = |len| {
        let name = "x".repeat(len);
        Request::Hello(Hello { version_min: 1, version_max: 1, features: 0, name })
    };
    // Three bytes of numbers and two of the name's length stand before it.
    let longest = MAX_MESSAGE - HEADER - 3 - 2;
    assert!(longest < 1 << 14, "the length takes two bytes");
    assert_eq!(encode(&hello(longest), 1, 0).unwrap().len(), MAX_MESSAGE);
    assert_eq!(encode(&hello(longest + 1), 1, 0).unwrap_err().code, ErrorCode::TOO_LARGE);
}

/// `Devices` is the one reply whose length depends on the machine: all slots of the state page,
/// each with a long driver name and eight nodes, must fit.
#[test]
fn a_full_house_of_devices_fits_a_datagram() {
    let device = |slot: u32| DeviceInfo {
        at: dmashare_proto::message::DeviceAt {
            device: dmashare_proto::DeviceId(u64::from(u32::MAX) + u64::from(slot)),
            slot,
            word: dmashare_proto::state_page::Word(u32::MAX),
        },
        state: dmashare_proto::state_page::DeviceState::Present,
        driver: "a-driver-of-24-letters..".into(),
        pci: "10000:ff:1f.7".into(),
        nodes: (0..8).map(|i| format!("/dev/dri/renderD{}", 128 + slot * 8 + i)).collect(),
        removable: true,
    };
    let all = (0..dmashare_proto::state_page::SLOTS).map(device).collect();
    assert!(encode(&Reply::Devices(all), 1, 0).is_ok());
}
