//! Rights to import, as they are handed out.

use std::str::FromStr;
use std::time::Duration;

use dmashare_proto::ids;
use dmashare_proto::message::{Grantee, Terms};
use nix::unistd::getuid;

use crate::error::Error;

/// An unguessable right to import one object, to be handed to the other process by any channel.
/// Whoever reads it can use it, so `Debug` shows its beginning only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(crate) ids::Token);

impl Token {
    /// From the bytes that the other process sent.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(ids::Token(bytes))
    }

    /// The bytes to send.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.0
    }

    /// As 32 hexadecimal digits, for a command line or an environment; [`FromStr`] reads them.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.0.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl From<[u8; 16]> for Token {
    fn from(bytes: [u8; 16]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::InvalidArgument("a token has 32 hexadecimal digits".to_owned());
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(Self::from_bytes(number.to_be_bytes()))
    }
}

/// Who may use a token, how often, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who.
    pub to: Grantee,
    /// How often, at least once.
    pub uses: u32,
    /// For how long, up to a day.
    pub ttl: Duration,
}

impl Grant {
    pub(crate) fn terms(self) -> Terms {
        Terms { to: self.to, uses: self.uses, ttl_ms: millis(self.ttl) }
    }
}

/// Once, within a minute, by a process of this process's user.
impl Default for Grant {
    fn default() -> Self {
        Self { to: Grantee::Uid(getuid().as_raw()), uses: 1, ttl: Duration::from_secs(60) }
    }
}

/// Whole milliseconds, up: a time that is not zero stays so. Too long a one is for the broker to
/// refuse.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// A deadline as the broker is told it, for whom 0 is its default.
pub(crate) fn deadline_millis(deadline: Option<Duration>) -> Result<u32, Error> {
    match deadline {
        None => Ok(0),
        Some(Duration::ZERO) => Err(Error::InvalidArgument(
            "a deadline of zero has passed before the work begins; None is the broker's default"
                .to_owned(),
        )),
        Some(deadline) => Ok(millis(deadline)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_back() {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0xfe, 0xff];
        let token = Token::from_bytes(bytes);
        assert_eq!(token.to_hex(), "000102030405060708090a0b0c0dfeff");
        assert_eq!(token.to_hex().parse::<Token>().unwrap(), token);
        for wrong in
            ["", "+00102030405060708090a0b0c0dfeff", "00", "g00102030405060708090a0b0c0dfeff"]
        {
            assert!(wrong.parse::<Token>().is_err(), "{wrong:?} is no token");
        }
    }

    #[test]
    fn a_short_time_is_not_none_at_all() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_millis(5)), 5);
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::MAX), u32::MAX);
    }
}
