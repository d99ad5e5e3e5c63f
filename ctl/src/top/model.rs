//! What is on the screen: pure. What keys do to it is in `keys`.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use dmashare_proto::activity::Activity;
use dmashare_proto::holders::Holders;
use jiff::tz::TimeZone;
use zbus::zvariant::OwnedObjectPath;

use super::rates::Rates;
use super::sort::Sort;
use crate::eject::verdict;
use crate::job::{Job, number};
use crate::live::EjectOptions;
use crate::model::{Client, Device, Service};
use crate::render::Style;
use crate::render::holders::tree;
use crate::world::{Event, World};

/// Events that are kept.
const EVENTS: usize = 100;

/// What the service is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing any more.
    Quit,
    /// Who holds a device.
    Inspect(u64),
    /// To eject a device.
    Eject {
        /// Which.
        device: u64,
        /// Whether those who hold on are ended.
        force: u8,
    },
    /// To cancel a job.
    Cancel(u64),
}

/// What the service answered, errors as text.
#[derive(Debug)]
pub enum Answer {
    /// To [`Action::Inspect`].
    Holders(u64, Result<Holders, String>),
    /// To [`Action::Eject`].
    Begun(Result<OwnedObjectPath, String>),
    /// To [`Action::Cancel`].
    Cancelled(Result<(), String>),
    /// What goes on, since the screen began.
    Activity(Duration, Vec<Activity>),
}

/// The table that keys move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Devices,
    Clients,
}

/// What a box says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// It is asked for.
    Awaited,
    Plain(String),
    Holders(Box<(Device, Holders)>),
}

impl Body {
    /// In lines of so many columns, where it can be broken.
    pub(super) fn text(&self, columns: u16) -> String {
        match self {
            Self::Awaited => "looking…".to_owned(),
            Self::Plain(text) => text.clone(),
            Self::Holders(found) => {
                tree(&found.0, &found.1, Style { colour: false, width: Some(columns) })
            }
        }
    }
}

/// What lies over the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    #[default]
    Nothing,
    Help,
    /// A text.
    Text {
        title: String,
        body: Body,
        scroll: u16,
    },
    /// A question: whether to eject.
    Ask {
        device: u64,
        force: u8,
    },
}

/// The screen.
pub struct Model {
    pub(super) service: Service,
    pub(super) running: bool,
    pub(super) devices: Vec<Device>,
    pub(super) clients: Vec<Client>,
    pub(super) jobs: Vec<Job>,
    pub(super) events: VecDeque<(SystemTime, Event)>,
    pub(super) rates: Rates,
    pub(super) pane: Pane,
    pub(super) device_sort: Sort,
    pub(super) client_sort: Sort,
    pub(super) device: Option<u64>,
    pub(super) client: Option<u64>,
    pub(super) over: Over,
    pub(super) colour: bool,
    /// Of the times on the screen.
    pub(super) zone: TimeZone,
    /// Jobs that were begun here: how they end is told.
    mine: BTreeSet<u64>,
    /// The force of the last of them.
    pub(super) force: u8,
}

impl Model {
    /// Of a service of which nothing else is known yet.
    #[must_use]
    pub fn new(service: Service, colour: bool) -> Self {
        Self {
            service,
            running: true,
            devices: Vec::new(),
            clients: Vec::new(),
            jobs: Vec::new(),
            events: VecDeque::new(),
            rates: Rates::default(),
            pane: Pane::default(),
            device_sort: Sort::default(),
            client_sort: Sort::default(),
            device: None,
            client: None,
            over: Over::default(),
            colour,
            zone: TimeZone::system(),
            mine: BTreeSet::new(),
            force: 0,
        }
    }

    /// Takes in what there is.
    pub fn see(&mut self, world: &World) {
        self.show(world.is_running(), world.devices(), world.clients(), world.jobs());
    }

    /// The same, in its parts.
    pub fn show(
        &mut self,
        running: bool,
        devices: Vec<Device>,
        clients: Vec<Client>,
        jobs: Vec<Job>,
    ) {
        (self.running, self.devices, self.clients, self.jobs) = (running, devices, clients, jobs);
        self.order();
    }

    pub(super) fn order(&mut self) {
        self.device_sort.devices(&mut self.devices, &self.rates);
        self.client_sort.clients(&mut self.clients);
        let there = self.devices.iter().any(|device| Some(device.id) == self.device);
        if !there {
            self.device = self.devices.first().map(|device| device.id);
        }
        let there = self.clients.iter().any(|client| Some(client.id) == self.client);
        if !there {
            self.client = self.clients.first().map(|client| client.id);
        }
    }

    /// Something happened.
    pub fn happened(&mut self, event: Event, at: SystemTime) {
        if event == Event::Changed {
            return;
        }
        if let Event::EjectEnded { job } = &event
            && self.mine.remove(&job.id)
        {
            self.ended(&job.clone());
        }
        self.events.push_front((at, event));
        self.events.truncate(EVENTS);
    }

    /// The service answered.
    pub fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Holders(id, found) => {
                let Over::Text { body: body @ Body::Awaited, .. } = &mut self.over else { return };
                let device = self.devices.iter().find(|device| device.id == id);
                *body = match (found, device) {
                    (Ok(found), Some(device)) => Body::Holders(Box::new((device.clone(), found))),
                    (Ok(_), None) => Body::Plain("it is gone".to_owned()),
                    (Err(failure), _) => Body::Plain(failure),
                };
            }
            Answer::Begun(Ok(path)) => {
                let Some(id) = number(path.as_str(), "/j") else { return };
                match self.jobs.iter().find(|job| job.id == id && job.outcome.is_some()) {
                    Some(job) => self.ended(&job.clone()),
                    None => _ = self.mine.insert(id),
                }
            }
            Answer::Begun(Err(failure)) => self.tell("Not ejected", failure),
            Answer::Cancelled(Err(failure)) => self.tell("Not cancelled", failure),
            Answer::Cancelled(Ok(())) => {}
            Answer::Activity(now, activity) => {
                self.rates.sample(now, &activity);
                self.order();
            }
        }
    }

    fn ended(&mut self, job: &Job) {
        let options = EjectOptions { force: self.force, ..EjectOptions::default() };
        let (shown, result) = verdict(job, &options, Style::default());
        match result {
            Ok(()) => self.tell("Ejected", shown),
            Err(failure) => {
                let gap = if shown.is_empty() { "" } else { "\n" };
                self.tell("Not ejected", format!("{failure}\n{gap}{shown}"));
            }
        }
    }

    fn tell(&mut self, title: &str, text: String) {
        self.over = Over::Text { title: title.to_owned(), body: Body::Plain(text), scroll: 0 };
    }

    /// The selected device, if that is what is moved in.
    pub(super) fn chosen(&self) -> Option<&Device> {
        let devices = self.pane == Pane::Devices;
        self.devices.iter().find(|device| devices && Some(device.id) == self.device)
    }
}
