//! How to connect.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::limits::MAX_NAME;
use dmashare_proto::transport::{self, Buffer};

use crate::channel::{Channel, prepare};
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::handshake::handshake;
use crate::inner::Inner;
use crate::registry::Registry;

/// Where the broker listens.
const SOCKET: &str = "/run/dmashare/broker.sock";
/// The environment variable for another place.
const SOCKET_VARIABLE: &str = "DMASHARE_SOCKET";

/// Settings of a connection, from [`Connection::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    name: Option<String>,
    patience: Option<Duration>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { name: None, patience: Some(Duration::from_secs(30)) }
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
        let socket = transport::connect_to(path.as_ref()).map_err(|source| Error::Io {
            what: "cannot connect to the broker's socket",
            source,
        })?;
        self.from_fd(socket)
    }

    /// See [`Connection::from_fd`].
    ///
    /// # Errors
    /// As there.
    pub fn from_fd(self, socket: OwnedFd) -> Result<Connection, Error> {
        prepare(&socket)?;
        let name = self.name.unwrap_or_else(own_name);
        let mut buffer = Box::<Buffer>::default();
        let deadline = Deadline::after(self.patience);
        let (welcome, page) = handshake(&socket, &mut buffer, &name, deadline)?;
        Ok(Connection(Arc::new(Inner {
            channel: Channel::new(socket, buffer)?,
            page: Arc::new(page),
            imports: Registry::default(),
            welcome,
            patience: self.patience,
        })))
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
