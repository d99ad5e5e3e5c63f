//! The door of the fuzz target `stream`: the real service on simulated devices, in a thread of its own, and
//! a way to ask it what it has.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::start::{Options, run};
use super::{Shared, Shell};
use crate::bus::BusAddress;
use crate::config::Config;

/// What the service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Has {
    /// Devices that are not lost.
    pub present: usize,
    /// Of what it has some that clients made it have; with nobody connected it is to be nothing.
    pub left: Vec<&'static str>,
}

type Question = oneshot::Sender<Has>;

/// One a process: questions find their way by it.
static QUESTIONS: OnceLock<UnboundedSender<Question>> = OnceLock::new();

/// A running service.
pub struct Service {
    socket: PathBuf,
}

impl Service {
    /// Starts the service of this process, which goes on to its end, on the devices in a folder.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut config = Config::default();
        config.broker.socket = folder.join("broker.sock");
        config.broker.state_dir = folder.join("state");
        config.eject.helpers = folder.join("helpers");
        // Who is late may have asked to be killed, and is this process.
        config.broker.ack_timeout = std::time::Duration::from_secs(60);
        config.broker.overdue = crate::config::Overdue::Report;
        let socket = config.broker.socket.clone();
        let bus = BusAddress::Address(format!("unix:path={}", folder.join("bus").display()));
        let options = Options { bus, simulate: Some(folder.to_owned()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("service".to_owned()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            let end = local.block_on(&runtime, run(config, options));
            // Nobody asks it to stop.
            eprintln!("the service has ended: {end:?}");
            std::process::abort();
        })?;
        let this = Self { socket };
        while QUESTIONS.get().is_none() {
            std::thread::yield_now();
        }
        this.has().context("the service does not answer")?;
        Ok(this)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has now.
    ///
    /// # Errors
    /// It has ended.
    pub fn has(&self) -> Result<Has> {
        let (answer, has) = oneshot::channel();
        let questions = QUESTIONS.get().context("no service was started")?;
        questions.send(answer).ok().context("the service has ended")?;
        has.blocking_recv().context("the service has ended")
    }
}

/// The service has what its tasks share: questions can be answered from here.
pub(super) fn opened(shell: &Shared) {
    let (sender, questions) = unbounded_channel();
    if QUESTIONS.set(sender).is_ok() {
        // A stop waits for everybody else who has it.
        tokio::task::spawn_local(answer(Rc::downgrade(shell), questions));
    }
}

async fn answer(shell: Weak<RefCell<Shell>>, mut questions: UnboundedReceiver<Question>) {
    while let Some(question) = questions.recv().await {
        let Some(shell) = shell.upgrade() else { return };
        let shell = shell.borrow();
        let mut left = shell.broker.left();
        if !shell.connections.is_empty() {
            left.push("connections");
        }
        // Who asks is gone only with the process.
        _ = question.send(Has { present: shell.broker.present().count(), left });
    }
}
