//! The session's notification service, which may come late, go, or never be there.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use zbus::zvariant::Value;
use zbus::{Connection, MessageStream};

use super::Note;
use crate::bus::{Bus, failure, no_bus};
use crate::failure::Failure;
use crate::live::{connection, owner_rule};
use crate::output::print;
use crate::render::text::{clean, xml};

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
const THE_BUS: &str = "org.freedesktop.DBus";

/// A note that was shown, and by whom: a number is nothing to another service.
struct Shown {
    service: String,
    id: u32,
}

/// Where notes are shown.
pub(super) struct Desk {
    connection: Connection,
    stream: MessageStream,
    shown: HashMap<String, Shown>,
    /// The newest note of each device that nobody was there to show.
    waiting: BTreeMap<String, Note>,
}

impl Desk {
    pub(super) async fn connect() -> Result<Self, Failure> {
        let connection =
            connection(&Bus::Session).await.map_err(|error| no_bus("session", error))?;
        let stream = MessageStream::from(&connection);
        let desk = Self { connection, stream, shown: HashMap::new(), waiting: BTreeMap::new() };
        let added: zbus::Result<()> = desk.ask_bus("AddMatch", &owner_rule(NAME)).await;
        added.map_err(|error| failure("session", &error))?;
        Ok(desk)
    }

    /// Waits until a notification service comes. It may be dropped at any time.
    pub(super) async fn came(&mut self) -> Result<(), Failure> {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(failure("session", &error)),
                None => {
                    let text = "the session's bus closed the connection";
                    return Err(Failure::NoAnswer(text.to_owned()));
                }
            };
            let header = message.header();
            let from_bus = header.sender().is_some_and(|sender| sender.as_str() == THE_BUS);
            let is = header.member().is_some_and(|member| member.as_str() == "NameOwnerChanged");
            let changed = message.body().deserialize::<(String, String, String)>();
            if let (true, Ok((name, _, new))) = (from_bus && is, changed)
                && name == NAME
                && !new.is_empty()
            {
                return Ok(());
            }
        }
    }

    pub(super) async fn show_what_waits(&mut self) -> Result<(), Failure> {
        for note in std::mem::take(&mut self.waiting).into_values() {
            self.show(note).await?;
        }
        Ok(())
    }

    /// Shows a note in the place of the former one of its device; keeps it if there is nobody to.
    pub(super) async fn show(&mut self, note: Note) -> Result<(), Failure> {
        match self.notify(&note).await {
            Ok(shown) => {
                print(&format!("shown: {}: {}\n", note.summary, clean(&note.body)))?;
                self.waiting.remove(&note.about);
                self.shown.insert(note.about, shown);
                Ok(())
            }
            // An error of the bus, or of a service that has its own ideas of notes.
            Err(zbus::Error::MethodError(name, ..)) => {
                print(&format!("not shown yet ({}): {}\n", clean(&name), note.summary))?;
                self.waiting.insert(note.about.clone(), note);
                Ok(())
            }
            Err(error) => Err(failure("session", &error)),
        }
    }

    async fn notify(&self, note: &Note) -> zbus::Result<Shown> {
        // One that is not there is started by the bus, if it knows how.
        let abilities: Vec<String> =
            self.call("GetCapabilities", &()).await?.body().deserialize()?;
        let body = if abilities.iter().any(|ability| ability == "body-markup") {
            note.body.split('\n').map(xml).collect::<Vec<_>>().join("\n")
        } else {
            note.body.clone()
        };
        let service: String = self.ask_bus("GetNameOwner", &NAME).await?;
        let former = self.shown.get(&note.about).filter(|shown| shown.service == service);
        let replaces = former.map_or(0, |shown| shown.id);
        let hints: HashMap<&str, Value<'_>> =
            [("urgency", Value::U8(note.urgency as u8)), ("category", Value::from(note.category))]
                .into();
        let no_actions: &[&str] = &[];
        let arguments = (
            "dmashare",
            replaces,
            note.icon,
            note.summary.as_str(),
            body.as_str(),
            no_actions,
            hints,
            -1_i32,
        );
        let id = self.call("Notify", &arguments).await?.body().deserialize()?;
        Ok(Shown { service, id })
    }

    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        self.connection.call_method(Some(NAME), PATH, Some(NAME), method, body).await
    }

    async fn ask_bus<B, R>(&self, method: &str, body: &B) -> zbus::Result<R>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
        R: for<'de> serde::Deserialize<'de> + zbus::zvariant::Type,
    {
        let path = "/org/freedesktop/DBus";
        let answer =
            self.connection.call_method(Some(THE_BUS), path, Some(THE_BUS), method, body).await?;
        answer.body().deserialize()
    }
}
