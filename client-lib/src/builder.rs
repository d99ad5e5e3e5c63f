//! How to connect.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::limits::MAX_NAME;
use dmashare_proto::transport::{self, Buffer};

use crate::again::{Again, Home};
use crate::channel::prepare;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::handshake::handshake;
use crate::inner::Inner;

/// Where the broker listens.
const SOCKET: &str = "/run/dmashare/broker.sock";
/// The environment variable for another place.
const SOCKET_VARIABLE: &str = "DMASHARE_SOCKET";

/// How often a connection is made that ends before it is answered: the broker was killed just then, and who
/// refuses says why.
const TRIES: u32 = 4;

/// Settings of a connection, from [`Connection::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    name: Option<String>,
    patience: Option<Duration>,
    reconnect: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { name: None, patience: Some(Duration::from_secs(30)), reconnect: false }
    }

    /// What the process is called in tables and logs, at most 64 bytes. Its executable's name if
    /// this is not called.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long a call waits for the broker's answer before it is [`Error::NoAnswer`]; for ever for
    /// `None`, 30 s if this is not called. A broker that works answers at once.
    pub fn patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    /// Whether the library makes the connection anew by itself when it ends: the broker was restarted, or
    /// has closed it. Not if this is not called.
    ///
    /// [`Connection::dispatch`] then never says [`Error::Disconnected`]: it gives
    /// [`crate::Event::Disconnected`], tries again (at once, then after a while that grows to two
    /// seconds), and gives [`crate::Event::Reconnected`]. Calls that ask the broker meanwhile wait for
    /// it, for as long as [`Self::patience`] says. What was had by the former connection has ended with
    /// it: see [`crate::Reconnected`].
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// See [`Connection::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(self) -> Result<Connection, Error> {
        let path = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        self.connect_to(path.map_or_else(|| PathBuf::from(SOCKET), PathBuf::from))
    }

    /// See [`Connection::connect_to`].
    ///
    /// # Errors
    /// As there.
    pub fn connect_to(self, path: impl AsRef<Path>) -> Result<Connection, Error> {
        let path = path.as_ref();
        let name = self.name.unwrap_or_else(own_name);
        let mut tries = 1;
        let inner = loop {
            let socket = transport::connect_to(path).map_err(|source| Error::Io {
                what: "cannot connect to the broker's socket",
                source,
            })?;
            match greet(socket, &name, self.patience) {
                Err(error) if tries < TRIES && is_no_refusal(&error) => tries += 1,
                greeted => break greeted?,
            }
        };
        if !self.reconnect {
            return Ok(Connection::of(&inner));
        }
        let home = Home { path: path.to_owned(), name, patience: self.patience };
        Again::new(home, inner).map(Connection::again)
    }

    /// See [`Connection::from_fd`].
    ///
    /// # Errors
    /// As there; [`Error::InvalidArgument`] with [`Self::reconnect`]: nobody knows where the fd is from.
    pub fn from_fd(self, socket: OwnedFd) -> Result<Connection, Error> {
        if self.reconnect {
            return Err(Error::InvalidArgument(
                "a connection over a given fd cannot be made anew; connect by a path to reconnect"
                    .to_owned(),
            ));
        }
        let name = self.name.unwrap_or_else(own_name);
        greet(socket, &name, self.patience).map(|inner| Connection::of(&inner))
    }
}

fn greet(socket: OwnedFd, name: &str, patience: Option<Duration>) -> Result<Arc<Inner>, Error> {
    prepare(&socket)?;
    let mut buffer = Box::<Buffer>::default();
    let (welcome, page) = handshake(&socket, &mut buffer, name, Deadline::after(patience))?;
    Inner::new(socket, buffer, welcome, page, patience)
}

/// Whether the connection ended without a word, as that of a broker that was killed before it had noted that
/// there is one: the only instant at which a restart is seen.
fn is_no_refusal(error: &Error) -> bool {
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    match error {
        Error::Disconnected(_) => true,
        Error::Io { source, .. } => gone.contains(&source.kind()),
        _ => false,
    }
}

/// The executable's name, made fit for a table.
fn own_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > MAX_NAME {
        name.pop();
    }
    name
}
