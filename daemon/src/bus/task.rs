//! The task: onto the bus, updates, and back onto the bus when it went away.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use zbus::Connection;

use super::appearance::Appearance;
use super::broker::Broker;
use super::served::Served;
use super::state::State;
use super::{Asks, BusAddress, BusFacts, ROOT, Status};
use crate::view::BusUpdate;

/// A bus that takes longer for anything is taken for dead: what waits for it would only grow.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first interval between attempts, where only trying tells; doubled up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// The face while it runs.
pub(super) struct Task {
    address: BusAddress,
    updates: mpsc::UnboundedReceiver<BusUpdate>,
    asks: Asks,
    facts: Arc<BusFacts>,
    status: watch::Sender<Status>,
    state: State,
}

/// The broker stops.
struct Stop;

impl Task {
    pub(super) fn new(
        address: BusAddress,
        updates: mpsc::UnboundedReceiver<BusUpdate>,
        asks: Asks,
        facts: BusFacts,
        status: watch::Sender<Status>,
    ) -> Self {
        let facts = Arc::new(facts);
        Self { address, updates, asks, facts, status, state: State::default() }
    }

    pub(super) async fn run(mut self) {
        loop {
            let Ok(served) = self.published().await else {
                return;
            };
            tracing::info!(bus = %self.address, "on the bus");
            self.status.send_replace(Status::Published);
            if let Err(Stop) = self.serve(served).await {
                return;
            }
            tracing::warn!(name: "bus-missing", bus = %self.address, "the bus is gone; waiting for it to come back");
            self.status.send_replace(Status::Missing);
        }
    }

    /// Serves until the bus is gone.
    async fn serve(&mut self, mut served: Served) -> Result<(), Stop> {
        loop {
            tokio::select! {
                update = self.updates.recv() => {
                    let Some(update) = update else {
                        if let Err(error) = in_time(served.withdraw()).await {
                            tracing::debug!(%error, "the bus was left without a word");
                        }
                        return Err(Stop);
                    };
                    self.state.apply(&update);
                    if let Err(error) = in_time(served.update(update)).await {
                        tracing::warn!(%error, "an update did not reach the bus");
                        return Ok(());
                    }
                }
                () = served.closed() => return Ok(()),
            }
        }
    }

    /// Gets onto the bus, however long that takes.
    async fn published(&mut self) -> Result<Served, Stop> {
        let path = self.address.path();
        // A bus that went away has been told of.
        let mut told = *self.status.borrow() == Status::Missing;
        let mut interval = SHORTEST;
        loop {
            // Watched before it is tried, so that no appearance falls in between.
            let watch = path.as_deref().map(Appearance::of).and_then(Result::ok);
            let error = match self.attempt().await? {
                Ok(served) => return Ok(served),
                Err(error) => error,
            };
            if !told {
                tracing::warn!(name: "bus-missing", bus = %self.address, %error, "no bus; going on without it until it comes");
                told = true;
            }
            self.status.send_replace(Status::Missing);
            // A socket that is not there tells by itself when it is.
            let only_watch = watch.is_some() && is_missing(&error);
            if self.wait(watch.as_ref(), (!only_watch).then_some(interval)).await? {
                interval = SHORTEST;
            } else {
                interval = LONGEST.min(interval * 2);
            }
        }
    }

    async fn attempt(&mut self) -> Result<zbus::Result<Served>, Stop> {
        let connection = match self.connected().await? {
            Ok(connection) => connection,
            Err(error) => return Ok(Err(error)),
        };
        self.take_waiting()?;
        Ok(in_time(Served::publish(connection, &self.state, &self.asks)).await)
    }

    /// A connection. Updates are taken in beside, so that a bus that is slow to greet hinders no stop.
    async fn connected(&mut self) -> Result<zbus::Result<Connection>, Stop> {
        let broker = Broker {
            facts: Arc::clone(&self.facts),
            asks: self.asks.clone(),
            clients: 0,
            devices: Vec::new(),
            jobs: Vec::new(),
            reports: String::new(),
            neutral: (0, 0),
            inhibitors: Vec::new(),
        };
        let connection = in_time(self.address.connect_with(ROOT, broker));
        tokio::pin!(connection);
        loop {
            tokio::select! {
                update = self.updates.recv() => self.state.apply(&update.ok_or(Stop)?),
                connection = &mut connection => return Ok(connection),
            }
        }
    }

    /// Takes updates in until it is time for the next attempt; tells whether something appeared.
    async fn wait(
        &mut self,
        watch: Option<&Appearance>,
        interval: Option<Duration>,
    ) -> Result<bool, Stop> {
        let appears = async {
            match watch {
                Some(watch) => match watch.wait().await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::debug!(%error, "the bus's socket cannot be watched");
                        sleep(LONGEST).await;
                        false
                    }
                },
                None => pending().await,
            }
        };
        let passes = async {
            match interval {
                Some(interval) => sleep(interval).await,
                None => pending().await,
            }
        };
        tokio::pin!(appears, passes);
        loop {
            tokio::select! {
                update = self.updates.recv() => self.state.apply(&update.ok_or(Stop)?),
                appeared = &mut appears => return Ok(appeared),
                () = &mut passes => return Ok(false),
            }
        }
    }

    /// Takes in what has been sent so far.
    fn take_waiting(&mut self) -> Result<(), Stop> {
        loop {
            match self.updates.try_recv() {
                Ok(update) => self.state.apply(&update),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(Stop),
            }
        }
    }
}

/// What takes longer than [`PATIENCE`] has failed.
async fn in_time<T>(action: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    match timeout(PATIENCE, action).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// Whether the bus's socket is not there at all.
fn is_missing(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(error) if error.kind() == io::ErrorKind::NotFound)
}
