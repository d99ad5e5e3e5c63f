//! The service as it changes: its signals in their order, and calls beside them.

mod calls;
mod signal;

use std::collections::HashMap;

use futures_util::StreamExt as _;
use zbus::connection::Builder;
use zbus::zvariant::OwnedObjectPath;
use zbus::{Connection, MessageStream};

pub use calls::{Caller, EjectOptions};
pub use signal::Signal;

use crate::bus::{ANSWER_OF_PEOPLE_WITHIN, Bus, NAME, failure, no_bus};
use crate::failure::Failure;
use crate::model::Properties;
use crate::world::{Event, World};

/// All objects with their interfaces, as the ObjectManager gives them.
pub type Objects = HashMap<OwnedObjectPath, HashMap<String, Properties>>;

/// Messages that may wait for this tool to read them.
const QUEUE: usize = 4096;

/// Whether the service is started if it does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By the bus, if that knows how; else it is a failure.
    Service,
    /// No: it is waited for.
    Nothing,
}

/// A connection that follows the service.
pub struct Live {
    caller: Caller,
    stream: MessageStream,
    /// The connection that has the service's name. What others send is not the service's.
    owner: Option<String>,
    /// The objects must be asked for.
    stale: bool,
    /// What this signal left out must be asked for.
    partial: Option<Signal>,
    /// What it found when it connected.
    found: Option<Event>,
    world: World,
}

impl Live {
    /// Connects, and takes in what the service has.
    ///
    /// # Errors
    /// There is no bus, or it refuses; the service does not answer.
    pub async fn connect(bus: &Bus, start: Start) -> Result<Self, Failure> {
        let name = bus.to_string();
        let connection = connection(bus).await.map_err(|error| no_bus(&name, error))?;
        let stream = MessageStream::from(&connection);
        let caller = Caller::new(connection, name);
        // Before anything is asked for, so that no change is missed.
        caller.listen(&format!("type='signal',sender='{NAME}'")).await?;
        caller.listen(&owner_rule(NAME)).await?;
        let mut world = World::default();
        let found = match start {
            // Whichever call comes first starts it.
            Start::Service => Some(world.replace(caller.objects().await?)),
            Start::Nothing => None,
        };
        let owner = caller.owner(NAME).await?;
        let stale = owner.is_some() && found.is_none();
        Ok(Self { caller, stream, owner, stale, partial: None, found, world })
    }

    /// What there is now.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// For calls while this is waited for.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// Waits for the next thing that happens. It may be dropped at any time without losing one.
    ///
    /// # Errors
    /// The bus is gone.
    pub async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        if let Some(found) = self.found.take() {
            return Ok(vec![found]);
        }
        loop {
            if self.stale {
                match self.caller.objects().await {
                    Ok(objects) => {
                        self.stale = false;
                        return Ok(vec![self.world.replace(objects)]);
                    }
                    // It stopped again; the bus tells when another one comes.
                    Err(Failure::NotRunning { .. } | Failure::NoAnswer(_)) => self.stale = false,
                    Err(failure) => return Err(failure),
                }
            }
            // It stays until it is whole: this may be dropped meanwhile.
            if let Some(partial) = &self.partial {
                let signal = self.caller.whole(partial).await;
                self.partial = None;
                let events = self.world.apply(signal);
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(failure(self.caller.bus(), &error)),
                None => return Err(Failure::NoAnswer("the bus closed the connection".to_owned())),
            };
            let Some(signal) = signal::read(&message, self.owner.as_deref()) else { continue };
            if let Signal::Owner(owner) = &signal {
                // It was started by this tool's first call, and is known.
                if *owner == self.owner {
                    continue;
                }
                self.stale = owner.is_some();
                self.owner.clone_from(owner);
            }
            if signal.is_partial() {
                self.partial = Some(signal);
                continue;
            }
            let events = self.world.apply(signal);
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Takes in a job as it is now.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn look_at_job(&mut self, path: &OwnedObjectPath) -> Result<(), Failure> {
        let properties = self.caller.job(path).await?;
        self.world.put_job(path.as_str(), properties);
        Ok(())
    }
}

/// A connection to a bus, on which somebody may have to be asked before an answer comes.
pub(crate) async fn connection(bus: &Bus) -> zbus::Result<Connection> {
    match bus {
        Bus::System => Builder::system(),
        Bus::Session => Builder::session(),
        Bus::Address(address) => Builder::address(address.as_str()),
    }?
    .method_timeout(ANSWER_OF_PEOPLE_WITHIN)
    .max_queued(QUEUE)
    .build()
    .await
}

/// Matches the signal that a name has another owner.
pub(crate) fn owner_rule(name: &str) -> String {
    format!("type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{name}'")
}
