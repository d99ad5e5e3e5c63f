//! Errors that cross the wire, apart by whose fault they are.

use serde::{Deserialize, Serialize};

/// What went wrong, as a number on the wire. A number that a peer does not know is kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u16);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The code's name as PROTOCOL.md lists it, `unknown` for one that it does not.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "unknown",
                }
            }
        }

        #[cfg(test)]
        pub(crate) const ALL: &[(u16, &str)] = &[$(($value, $text),)*];
    };
}

codes! {
    // 1xx: the peer broke the protocol.
    /// The body does not decode, is cut short, or has bytes left over.
    MALFORMED = 100, "malformed";
    /// No message of this kind exists.
    UNKNOWN_MESSAGE = 101, "unknown-message";
    /// `Hello` was not the first message, or came twice.
    HANDSHAKE = 102, "handshake";
    /// No version in common.
    VERSION = 103, "version";
    /// The number of file descriptors is not the one that the message needs or states.
    FD_COUNT = 104, "fd-count";
    /// The datagram is longer than the limit.
    TOO_LARGE = 105, "too-large";
    // 2xx: what the peer named or passed is not good.
    /// A file descriptor is not of the kind that the message needs.
    WRONG_FD = 200, "wrong-fd";
    /// The buffer was not made by the device whose DRM node was passed.
    WRONG_DEVICE = 201, "wrong-device";
    /// The layout (planes, offsets, strides, format, extent) is impossible for this buffer.
    BAD_LAYOUT = 202, "bad-layout";
    /// No such object, or one that belongs to another client.
    UNKNOWN_OBJECT = 203, "unknown-object";
    /// The object is of another kind than the request needs.
    WRONG_OBJECT = 204, "wrong-object";
    /// The token is unknown, used up, expired, or for another user. One code for all: a guesser
    /// learns nothing.
    BAD_TOKEN = 205, "bad-token";
    /// The DRM node belongs to no device that the broker knows (yet).
    UNKNOWN_DEVICE = 206, "unknown-device";
    /// A value is out of its range.
    BAD_VALUE = 207, "bad-value";
    // 3xx: limits.
    /// A quota is used up; the text names it.
    OVER_QUOTA = 300, "over-quota";
    // 4xx: the device.
    /// The device is gone. Nothing of it can be used; what it had is being taken back.
    DEVICE_LOST = 400, "device-lost";
    /// The device is about to be ejected, and nothing new is made of it; all that there is goes on.
    DRAINING = 401, "draining";
    // 5xx: the broker.
    /// A system call of the broker's failed; `errno` says how.
    INTERNAL = 500, "internal";
    /// This kernel offers nothing to make what was asked for; `dmasharectl doctor` explains.
    UNSUPPORTED = 501, "unsupported";
}

/// An error as the broker sends it: a code, the object that it is about, and a sentence that says
/// what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({})", code.name())]
pub struct WireError {
    /// What went wrong.
    pub code: ErrorCode,
    /// A positive errno where a system call failed, else 0.
    pub errno: i32,
    /// The object or device that it is about, else 0.
    pub object: u64,
    /// For a person.
    pub message: String,
}

impl WireError {
    /// An error about no object in particular.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, errno: 0, object: 0, message: message.into() }
    }

    /// The same, about `object`.
    #[must_use]
    pub fn about(mut self, object: u64) -> Self {
        self.object = object;
        self
    }

    /// The same, with the errno of the call that failed.
    #[must_use]
    pub fn errno(mut self, error: &std::io::Error) -> Self {
        self.errno = error.raw_os_error().unwrap_or(0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_md_lists_every_code() {
        let text = include_str!("../PROTOCOL.md");
        for (value, name) in ALL {
            let row = format!("| {value} | `{name}` |");
            assert!(text.contains(&row), "PROTOCOL.md lacks the row {row:?}");
        }
    }
}
