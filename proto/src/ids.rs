//! Identifiers. All are 64-bit, given out by the broker, and never used again.

use core::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One GPU for as long as it is plugged in; the same card plugged in again is a new device.
    DeviceId
);
id!(
    /// A buffer, an import or a fence.
    ObjectId
);
id!(
    /// One connection to the broker.
    ClientId
);

/// An unguessable 128-bit right to import one object. Whoever holds its bytes (and is of the uid
/// that it was granted to) may use it, so it is shown in full to nobody: `Debug` prints two bytes.
#[derive(Clone, Copy, Eq, Serialize, Deserialize)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// A token from the kernel's random source.
    ///
    /// # Errors
    /// The random source failed, which Linux only does very early at boot.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// In constant time: the time of a refusal tells nothing about how many bytes were right.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl core::hash::Hash for Token {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        let token = Token([0xab; 16]);
        assert_eq!(format!("{token:?}"), "Token(abab…)");
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(Token::random().unwrap(), Token::random().unwrap());
    }
}
