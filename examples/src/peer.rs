//! Another process at the other end of a pipe, and the broker at the same time.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use dmashare::{Connection, DeviceInfo, DeviceLost, Error, Event, Lost};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Lines of another process, until a GPU is lost.
pub struct Peer<R> {
    lines: BufReader<R>,
    gpu: DeviceInfo,
    lost: Option<Lost>,
}

impl<R: Read + AsFd> Peer<R> {
    /// `gpu` is the one that both have something of.
    pub fn new(lines: R, gpu: DeviceInfo) -> Self {
        Self { lines: BufReader::new(lines), gpu, lost: None }
    }

    /// Waits for its next line; `None` is its end. It waits for an answer to each.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; the broker or the other cannot be read.
    pub fn next(&mut self, broker: &Connection) -> Result<Option<String>> {
        loop {
            let mut fds = [broker.as_fd(), self.lines.get_ref().as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll(&mut fds, PollTimeout::NONE)?;
            let [told, said] = fds.map(|fd| fd.any().unwrap_or(true));
            if told {
                self.serve(broker, Some(Duration::ZERO))?;
            }
            // What the other says, or that it has ended, may come before the event that it is due to.
            if self.gpu.device.is_lost() || self.lost.is_some() {
                return Err(self.why().into());
            }
            if said {
                let mut line = String::new();
                let read = self.lines.read_line(&mut line).context("read from the other")?;
                return Ok((read > 0).then(|| line.trim().to_owned()));
            }
        }
    }

    /// An error that comes from the loss, in the words that say most, and any other as it is. The loss has
    /// been told by then.
    ///
    /// # Errors
    /// The broker cannot be read.
    pub fn explain(
        &mut self,
        broker: &Connection,
        error: anyhow::Error,
    ) -> Result<anyhow::Error, Error> {
        let known = error.downcast_ref::<Error>();
        if !known.is_some_and(Error::is_device_lost) {
            return Ok(error);
        }
        let is_fence = matches!(known, Some(Error::Fence(_)));
        while self.lost.is_none() {
            self.serve(broker, None)?;
        }
        Ok(if is_fence { error } else { self.why().into() })
    }

    /// Whether the loss was told.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// The loss, as an error.
    #[must_use]
    pub fn why(&self) -> Error {
        let cause = self.lost.as_ref().map(Lost::cause);
        Error::DeviceLost(DeviceLost { device: self.gpu.device.id(), cause })
    }

    /// Tells the broker that nothing of the GPU is left here.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn acknowledge(self) -> Result<(), Error> {
        self.lost.map_or(Ok(()), Lost::acknowledge)
    }

    fn serve(&mut self, broker: &Connection, time: Option<Duration>) -> Result<(), Error> {
        for event in broker.dispatch(time)? {
            match event {
                Event::DeviceLost(lost) if lost.device() == self.gpu.device.id() => {
                    self.lost = Some(lost);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
