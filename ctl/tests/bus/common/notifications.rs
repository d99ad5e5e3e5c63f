//! A stand-in for a desktop's notification service.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};

use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::interface;
use zbus::zvariant::OwnedValue;

/// What was to be shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Notification {
    pub replaces: u32,
    pub summary: String,
    pub body: String,
    pub urgency: u8,
    /// What it was given as its number.
    pub id: u32,
}

struct Service {
    told: Sender<Notification>,
    last: u32,
}

#[interface(name = "org.freedesktop.Notifications")]
impl Service {
    fn get_capabilities(&self) -> Vec<String> {
        vec!["body".to_owned(), "body-markup".to_owned()]
    }

    #[allow(clippy::too_many_arguments, reason = "the specification's")]
    fn notify(
        &mut self,
        _app: String,
        replaces: u32,
        _icon: String,
        summary: String,
        body: String,
        _actions: Vec<String>,
        hints: HashMap<String, OwnedValue>,
        _expires: i32,
    ) -> u32 {
        if replaces == 0 {
            self.last += 1;
        }
        let id = if replaces == 0 { self.last } else { replaces };
        let urgency = u8::try_from(&hints["urgency"]).unwrap();
        self.told.send(Notification { replaces, summary, body, urgency, id }).unwrap();
        id
    }
}

/// The service, until it is dropped.
pub struct Notifications {
    _connection: Connection,
    told: Receiver<Notification>,
}

impl Notifications {
    /// Its numbers begin above `last`.
    pub fn serve(address: &str, last: u32) -> Self {
        let (sender, told) = channel();
        let connection = Builder::address(address)
            .unwrap()
            .serve_at("/org/freedesktop/Notifications", Service { told: sender, last })
            .unwrap()
            .name("org.freedesktop.Notifications")
            .unwrap()
            .build()
            .unwrap();
        Self { _connection: connection, told }
    }

    pub fn next(&self) -> Notification {
        self.told.recv_timeout(std::time::Duration::from_secs(30)).expect("nothing was shown")
    }
}
