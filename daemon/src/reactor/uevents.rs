//! Where the reactor reads removals: the kernel's netlink group, or a socket that a test writes to.

use std::os::fd::{AsFd, BorrowedFd};

use dmashare_uapi::uevent::{KernelUevents, RecvError, Uevent};

/// A source of uevents.
pub enum Uevents {
    /// The kernel's.
    Kernel(KernelUevents),
    /// A datagram socket; each datagram is a message as the kernel writes them.
    #[cfg(feature = "simulate")]
    Simulated(std::os::unix::net::UnixDatagram),
}

impl Uevents {
    /// The next message, `None` if there is none now.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv<'b>(&self, buffer: &'b mut [u8]) -> Result<Option<Uevent<'b>>, RecvError> {
        match self {
            Self::Kernel(socket) => socket.recv(buffer),
            #[cfg(feature = "simulate")]
            Self::Simulated(socket) => match socket.recv(buffer) {
                Ok(len) => Ok(Some(Uevent::parse(&buffer[..len])?)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Binds `DIR/uevent.sock`.
    ///
    /// # Errors
    /// The socket cannot be made there.
    #[cfg(feature = "simulate")]
    pub fn simulated(dir: &std::path::Path) -> std::io::Result<Self> {
        let path = dir.join("uevent.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = std::os::unix::net::UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Simulated(socket))
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kernel(socket) => socket.as_fd(),
            #[cfg(feature = "simulate")]
            Self::Simulated(socket) => socket.as_fd(),
        }
    }
}
