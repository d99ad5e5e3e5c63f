//! Bytes to messages and back. A datagram is a header of 16 bytes (little endian: kind u16, number
//! of fds u16, zero u32, id u64), then the body.

use crate::error::{ErrorCode, WireError};
use crate::limits::MAX_MESSAGE;
use crate::message::{Event, Reply, Request};

/// Bytes of a header.
pub const HEADER: usize = 16;

/// What stands before every body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the message.
    pub kind: u16,
    /// How many file descriptors the sender put beside it.
    pub fds: u16,
    /// A request's id, chosen by the client and not 0; the reply has the same; 0 for events.
    pub id: u64,
}

/// A set of messages that go one way.
pub trait MessageSet: Sized {
    /// The message's number.
    fn kind(&self) -> u16;
    /// Appends the body to `to`.
    ///
    /// # Errors
    /// The serializer's.
    fn encode_body(&self, to: Vec<u8>) -> Result<Vec<u8>, postcard::Error>;
    /// Reads a body, with what was left over; `None` for a number of no message in this set.
    fn decode_body(kind: u16, bytes: &[u8]) -> Option<Result<(Self, &[u8]), postcard::Error>>;
}

/// Why a datagram is no message. The header is there when it could be read, so that the answer can
/// carry the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The header, if the datagram was long enough for one.
    pub header: Option<Header>,
    /// What to answer.
    pub error: WireError,
}

/// Encodes a message with `fds` descriptors beside it.
///
/// # Errors
/// [`ErrorCode::TOO_LARGE`] if it would pass [`MAX_MESSAGE`].
pub fn encode<M: MessageSet>(message: &M, id: u64, fds: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&message.kind().to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(fds).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    let bytes = message.encode_body(bytes).map_err(|error| {
        WireError::new(ErrorCode::INTERNAL, format!("the message cannot be encoded: {error}"))
    })?;
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::new(
            ErrorCode::TOO_LARGE,
            format!("the message has {} bytes; the limit is {MAX_MESSAGE}", bytes.len()),
        ));
    }
    Ok(bytes)
}

/// Reads a header.
///
/// # Errors
/// [`ErrorCode::MALFORMED`] for a datagram shorter than a header, or reserved bytes that are set.
pub fn decode_header(bytes: &[u8]) -> Result<Header, DecodeError> {
    let Some((head, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(DecodeError {
            header: None,
            error: WireError::new(
                ErrorCode::MALFORMED,
                format!("a datagram of {} bytes is shorter than a header", bytes.len()),
            ),
        });
    };
    let [k0, k1, f0, f1, r0, r1, r2, r3, id @ ..] = *head;
    let header = Header {
        kind: u16::from_le_bytes([k0, k1]),
        fds: u16::from_le_bytes([f0, f1]),
        id: u64::from_le_bytes(id),
    };
    if [r0, r1, r2, r3] != [0; 4] {
        return Err(DecodeError {
            header: Some(header),
            error: WireError::new(ErrorCode::MALFORMED, "the header's reserved bytes are not 0"),
        });
    }
    Ok(header)
}

/// Decodes a datagram that came with `fds` descriptors.
///
/// # Errors
/// See [`ErrorCode`]: `UNKNOWN_MESSAGE`, `MALFORMED`, `FD_COUNT`.
pub fn decode<M: MessageSet>(bytes: &[u8], fds: usize) -> Result<(Header, M), DecodeError> {
    let header = decode_header(bytes)?;
    let fail = |code, text: String| DecodeError {
        header: Some(header),
        error: WireError::new(code, text),
    };
    if usize::from(header.fds) != fds {
        return Err(fail(
            ErrorCode::FD_COUNT,
            format!("the header says {} file descriptors and {fds} came", header.fds),
        ));
    }
    match M::decode_body(header.kind, &bytes[HEADER..]) {
        None => Err(fail(
            ErrorCode::UNKNOWN_MESSAGE,
            format!("no message has the number {:#06x}", header.kind),
        )),
        Some(Err(error)) => Err(fail(
            ErrorCode::MALFORMED,
            format!("the body of message {:#06x} does not decode: {error}", header.kind),
        )),
        Some(Ok((_, rest))) if !rest.is_empty() => Err(fail(
            ErrorCode::MALFORMED,
            format!("{} bytes are left after message {:#06x}", rest.len(), header.kind),
        )),
        Some(Ok((message, _))) => Ok((header, message)),
    }
}

/// What a client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to the request with this id.
    Reply(u64, Reply),
    /// Something that happened.
    Event(Event),
}

/// Decodes what the broker sent.
///
/// # Errors
/// As [`decode`].
pub fn decode_incoming(bytes: &[u8], fds: usize) -> Result<Incoming, DecodeError> {
    let header = decode_header(bytes)?;
    if header.kind & 0xc000 == 0xc000 && header.kind != 0xffff {
        return decode(bytes, fds).map(|(_, event)| Incoming::Event(event));
    }
    decode(bytes, fds).map(|(header, reply)| Incoming::Reply(header.id, reply))
}

/// Decodes what a client sent.
///
/// # Errors
/// As [`decode`].
pub fn decode_request(bytes: &[u8], fds: usize) -> Result<(Header, Request), DecodeError> {
    decode(bytes, fds)
}
