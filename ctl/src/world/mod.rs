//! What the service has, kept up to date by its signals: pure, so that any order of them can be
//! played.

mod event;

use std::collections::BTreeMap;

pub use event::{Event, Named, outcome_paint};

use crate::bus::{CLIENT, DEVICE, JOB, PATH};
use crate::failure::Failure;
use crate::job::Job;
use crate::live::{Objects, Signal};
use crate::model::{Client, Device, Properties};

/// Objects of one kind, by their ids. The properties as they came stay with each, since a change
/// brings a part of them.
struct Kind<T> {
    of: BTreeMap<u64, (Properties, T)>,
    take: fn(Properties) -> Result<T, Failure>,
}

impl<T: Clone> Kind<T> {
    fn new(take: fn(Properties) -> Result<T, Failure>) -> Self {
        Self { of: BTreeMap::new(), take }
    }

    /// The object as it was and as it is. What a newer service has in another shape is left out.
    fn put(&mut self, id: u64, properties: Properties) -> Option<(Option<T>, T)> {
        let new = (self.take)(copy(&properties)).ok()?;
        let old = self.of.insert(id, (properties, new.clone()));
        Some((old.map(|(_, old)| old), new))
    }

    fn change(&mut self, id: u64, changed: Properties) -> Option<(T, T)> {
        let mut properties = copy(&self.of.get(&id)?.0);
        properties.extend(changed);
        let (old, new) = self.put(id, properties)?;
        Some((old?, new))
    }

    fn get(&self, id: u64) -> Option<&T> {
        self.of.get(&id).map(|(_, seen)| seen)
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.of.values().map(|(_, seen)| seen)
    }
}

/// No property of the service's is a descriptor, the only thing that cannot always be copied.
pub(crate) fn copy(properties: &Properties) -> Properties {
    let copied =
        properties.iter().filter_map(|(name, value)| Some((name.clone(), value.try_clone().ok()?)));
    copied.collect()
}

/// What there is.
pub struct World {
    devices: Kind<Device>,
    clients: Kind<Client>,
    jobs: Kind<Job>,
    running: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            devices: Kind::new(Device::take),
            clients: Kind::new(Client::take),
            jobs: Kind::new(Job::take),
            running: false,
        }
    }
}

enum Object {
    Device(u64),
    Client(u64),
    Job(u64),
}

fn object(path: &str) -> Option<Object> {
    let (kind, id) = path.strip_prefix(PATH)?.strip_prefix('/')?.split_once('/')?;
    let id = |mark| id.strip_prefix(mark).and_then(|id| id.parse().ok());
    match kind {
        "device" => id('d').map(Object::Device),
        "client" => id('c').map(Object::Client),
        "job" => id('j').map(Object::Job),
        _ => None,
    }
}

impl World {
    /// Whether the service runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// In the order of their ids.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        self.devices.all().cloned().collect()
    }

    /// In the order of their ids.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.clients.all().cloned().collect()
    }

    /// In the order of their ids.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        self.jobs.all().cloned().collect()
    }

    /// A job.
    #[must_use]
    pub fn job(&self, id: u64) -> Option<&Job> {
        self.jobs.get(id)
    }

    /// Forgets what it had for what the service has.
    pub(crate) fn replace(&mut self, objects: Objects) -> Event {
        *self = Self { running: true, ..Self::default() };
        for (path, interfaces) in objects {
            self.added(path.as_str(), interfaces);
        }
        self.service()
    }

    pub(crate) fn put_job(&mut self, path: &str, properties: Properties) {
        if let Some(Object::Job(id)) = object(path) {
            self.jobs.put(id, properties);
        }
    }

    /// Takes a signal in, and says what it means.
    pub(crate) fn apply(&mut self, signal: Signal) -> Vec<Event> {
        let event = match signal {
            Signal::Owner(None) if self.running => {
                *self = Self::default();
                Some(self.service())
            }
            // The objects of the new one are asked for.
            Signal::Owner(_) => None,
            Signal::Added(path, interfaces) => self.added(&path, interfaces),
            Signal::Removed(path, interfaces) => self.removed(&path, &interfaces),
            Signal::Changed(path, interface, changed)
            | Signal::Invalidated(path, interface, changed) => {
                self.changed(&path, &interface, changed)
            }
            Signal::Lost { path, cause, counts: (buffers, imports, fences) } => self
                .named(&path)
                .map(|device| Event::Lost { device, cause, buffers, imports, fences }),
            Signal::Wedged { path, recovery, task, fences } => {
                self.named(&path).map(|device| Event::Wedged { device, recovery, task, fences })
            }
            Signal::RemovalRequested { path, why } => {
                self.named(&path).map(|device| Event::RemovalRequested { device, why })
            }
            Signal::Ended { path, outcome, message } => {
                let outcome = zbus::zvariant::Str::from(outcome).into();
                let mut changed = Properties::from([("Outcome".to_owned(), outcome)]);
                if !message.is_empty() {
                    let message = zbus::zvariant::Str::from(message).into();
                    changed.insert("Message".to_owned(), message);
                }
                self.changed(&path, JOB, changed)
            }
        };
        event.into_iter().collect()
    }

    fn service(&self) -> Event {
        Event::Service {
            running: self.running,
            devices: self.devices.of.len(),
            clients: self.clients.of.len(),
        }
    }

    fn named(&self, path: &str) -> Option<Named> {
        match object(path)? {
            Object::Device(id) => self.devices.get(id).map(Named::of),
            _ => None,
        }
    }

    fn added(
        &mut self,
        path: &str,
        mut interfaces: std::collections::HashMap<String, Properties>,
    ) -> Option<Event> {
        match object(path)? {
            Object::Device(id) => match self.devices.put(id, interfaces.remove(DEVICE)?)? {
                (None, new) => Some(Event::Arrived { device: new }),
                _ => None,
            },
            Object::Client(id) => match self.clients.put(id, interfaces.remove(CLIENT)?)? {
                (None, new) => Some(Event::ClientCame { client: new }),
                _ => None,
            },
            Object::Job(id) => {
                let (old, new) = self.jobs.put(id, interfaces.remove(JOB)?)?;
                Event::of_job(old.as_ref(), new)
            }
        }
    }

    fn removed(&mut self, path: &str, interfaces: &[String]) -> Option<Event> {
        let gone = |interface: &str| interfaces.iter().any(|gone| gone == interface);
        match object(path)? {
            Object::Device(id) if gone(DEVICE) => {
                let (_, device) = self.devices.of.remove(&id)?;
                Some(Event::Gone { device: Named::of(&device) })
            }
            Object::Client(id) if gone(CLIENT) => {
                let (_, client) = self.clients.of.remove(&id)?;
                Some(Event::ClientWent { client })
            }
            Object::Job(id) if gone(JOB) => {
                self.jobs.of.remove(&id);
                None
            }
            _ => None,
        }
    }

    fn changed(&mut self, path: &str, interface: &str, changed: Properties) -> Option<Event> {
        match (object(path)?, interface) {
            (Object::Device(id), DEVICE) => {
                self.devices.change(id, changed)?;
                Some(Event::Changed)
            }
            (Object::Client(id), CLIENT) => {
                self.clients.change(id, changed)?;
                Some(Event::Changed)
            }
            (Object::Job(id), JOB) => {
                let (old, new) = self.jobs.change(id, changed)?;
                Event::of_job(Some(&old), new).or(Some(Event::Changed))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
