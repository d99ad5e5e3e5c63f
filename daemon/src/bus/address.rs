//! Which bus.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zbus::address::transport::{Transport, UnixSocket};
use zbus::connection::Builder;
use zbus::object_server::Interface;

use super::stream::BusStream;

/// Which bus the broker is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusAddress {
    /// The system's.
    System,
    /// The session's, for tests and demonstrations.
    Session,
    /// The one at this D-Bus address, `unix:path=/…`.
    Address(String),
}

impl FromStr for BusAddress {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "system" => Self::System,
            "session" => Self::Session,
            address => Self::Address(address.to_owned()),
        })
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::Session => "session",
            Self::Address(address) => address,
        })
    }
}

impl BusAddress {
    fn resolve(&self) -> zbus::Result<zbus::Address> {
        match self {
            Self::System => zbus::Address::system(),
            Self::Session => zbus::Address::session(),
            Self::Address(address) => address.parse(),
        }
    }

    /// The bus's socket in the file system, if that is where it is.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self.resolve().ok()?.transport() {
            Transport::Unix(unix) => match unix.path() {
                UnixSocket::File(path) => Some(path.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// A connection, authenticated and greeted, with an object on it. zbus drops the calls that come
    /// before its object server runs; given the object here, it runs before the connection does.
    pub(super) async fn connect_with<I: Interface>(
        &self,
        path: &'static str,
        object: I,
    ) -> zbus::Result<zbus::Connection> {
        self.builder().await?.serve_at(path, object)?.build().await
    }

    /// A connection without any, for clients.
    #[cfg(test)]
    pub(super) async fn connect(&self) -> zbus::Result<zbus::Connection> {
        self.builder().await?.build().await
    }

    async fn builder(&self) -> zbus::Result<Builder<'static>> {
        let address = self.resolve()?;
        let socket = match address.transport() {
            Transport::Unix(unix) => match unix.path() {
                UnixSocket::File(path) => BusStream::connect(path).await?,
                UnixSocket::Abstract(name) => {
                    let mut path = OsString::from("\0");
                    path.push(name);
                    BusStream::connect(Path::new(&path)).await?
                }
                _ => return Err(zbus::Error::Unsupported),
            },
            // A bus over TCP passes no descriptors: nothing to be careful of.
            _ => return Builder::address(address),
        };
        Ok(Builder::socket(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_word_or_itself() {
        let parse = |text: &str| text.parse::<BusAddress>().unwrap();
        assert_eq!(parse("system"), BusAddress::System);
        assert_eq!(parse("session"), BusAddress::Session);
        let address = parse("unix:path=/run/x/bus,guid=00112233445566778899aabbccddeeff");
        assert_eq!(address.path(), Some("/run/x/bus".into()));
        assert_eq!(parse("unix:abstract=x").path(), None);
        assert_eq!(parse("nonsense").path(), None);
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}
