//! The journal, in which events that somebody may have to act on have an id (MESSAGE_ID), by which the catalogue
//! explains them (`journalctl -x`; `systemd/dmashare.catalog`). An id stays with its meaning for good.
//!
//! Where an event is logged it has a name, as `name: "device-lost"`, and by that its id is found here.

use std::collections::HashMap;
use std::io;

use tracing::Subscriber;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Every named event, and its id.
pub const MESSAGES: &[(&str, &str)] = &[
    ("ready", "9bdb5e80313543da9f7772b4dc8b74c2"),
    ("stopped", "1b621e82e68f4437bd9b68cecdd86829"),
    ("restored", "0d3aca53397b453996d23ead6f249277"),
    ("device-present", "df0cb9db70c74cf1b10769cf99e9669f"),
    ("device-lost", "de26ff3c2d1946408f0d364caa62cfb7"),
    ("unplug-step", "b618cef7b3b04fe983ab1fd36cab3a80"),
    ("device-gone", "09a98c5f7ce841d8a33f07d340d1536e"),
    ("device-wedged", "74f062df2c1e4af7a9bd259b3c954df5"),
    ("implicit-fence", "c160e7b51e7c4f22a891bfd9b106c66e"),
    ("client-overdue", "4145d73924e14b8dba63e07d63ca8268"),
    ("client-disconnected", "a79891ba0ac04686ae2d61e412adb256"),
    ("client-failed", "d6389671bfa24fd29fa8cee9bbb7ddf6"),
    ("eject-began", "a6b09112b8fb4caabe0c6e915c7993a9"),
    ("eject-stage", "c07476070ec748158cd7015478516f24"),
    ("holder-ended", "9a750bf455e04f59925385bd231c145f"),
    ("eject-interrupted", "17f5c8bbba4b4a2f80602d8a728c9d37"),
    ("no-guards", "bad95b7c7a4a4a9e853ab2bd36dc7f5c"),
    ("no-uevents", "5ff8edffeba643adbf8b876c1f0dddb4"),
    ("uevents-lost", "0838b57bd2f04a2cbc76d67e5a7eefa5"),
    ("fence-unwatched", "b184652a0bfb4b9390f3b87266aaa375"),
    ("keeper-failed", "f65f6e853ad64d8ca5a23c07da5aa4ee"),
    ("keeper-missing", "8f8f552bd6494be1b7d85b030e38bee8"),
    ("former-lost", "dbd496acaa1941a8aba04cf0afc38306"),
    ("limits-not-met", "0e5ce665f26b400baa9ac2e29392a099"),
    ("page-full", "8d9125e5f7f44872bd75f56bebcb5d6d"),
    ("no-timelines", "824020d8cf284e8eb277ad9380283f3c"),
    ("bus-missing", "8e622ac6c1c34948b2e2acff870f3b03"),
];

/// All other fields are called so: `DMASHARE_DEVICE`.
const PREFIX: &str = "DMASHARE";

/// What is logged, to journald.
pub struct Journal {
    plain: tracing_journald::Layer,
    /// Each adds its id: the crate has no other way to add a field to some.
    named: HashMap<&'static str, tracing_journald::Layer>,
}

impl Journal {
    /// Opens it.
    ///
    /// # Errors
    /// There is no journald.
    pub fn connect() -> io::Result<Self> {
        let layer = || {
            let layer = tracing_journald::layer()?;
            io::Result::Ok(layer.with_field_prefix(Some(PREFIX.to_owned())))
        };
        let named = MESSAGES
            .iter()
            .map(|(name, id)| Ok((*name, layer()?.with_custom_fields([("MESSAGE_ID", id)]))))
            .collect::<io::Result<_>>()?;
        Ok(Self { plain: layer()?, named })
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.plain.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.plain.on_record(id, values, context);
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let layer = self.named.get(event.metadata().name()).unwrap_or(&self.plain);
        layer.on_event(event, context);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use super::MESSAGES;

    /// Every logging of a named event in a folder's sources: the name, and its arguments.
    fn logged(folder: &Path, all: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                logged(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for call in text.split("tracing::").skip(1) {
                    let Some((_, arguments)) = call.split_once("!(") else { continue };
                    let Some(named) = arguments.trim_start().strip_prefix("name: \"") else {
                        continue;
                    };
                    let (name, rest) = named.split_once('"').unwrap();
                    let arguments = rest.split_once(");").map_or(rest, |(arguments, _)| arguments);
                    all.push((name.to_owned(), arguments.to_owned()));
                }
            }
        }
    }

    /// The catalogue's entries: the id, and the text.
    fn catalogue() -> BTreeMap<String, String> {
        let text = include_str!("../../systemd/dmashare.catalog");
        let entries = text.split("\n-- ").skip(1).filter_map(|entry| entry.split_once('\n'));
        entries.map(|(id, text)| (id.to_owned(), text.to_owned())).collect()
    }

    #[test]
    fn every_named_event_has_an_id_and_every_id_is_explained() {
        let mut all = Vec::new();
        logged(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
        let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        let known: BTreeSet<&str> = MESSAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, known);
        assert_eq!(known.len(), MESSAGES.len(), "a name twice");
        let explained = catalogue();
        let ids: BTreeSet<&str> = MESSAGES.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, explained.keys().map(String::as_str).collect(), "ids, and the catalogue's");
        assert_eq!(ids.len(), MESSAGES.len(), "an id twice");
        for (name, id) in MESSAGES {
            for field in explained[*id].split('@').skip(1).step_by(2) {
                let field = field.strip_prefix("DMASHARE_").unwrap().to_lowercase();
                for (_, arguments) in all.iter().filter(|(logged, _)| logged == name) {
                    let mut words = arguments.split(|c: char| !c.is_alphanumeric() && c != '_');
                    assert!(words.any(|word| word == field), "{name} is logged without {field}");
                }
            }
        }
    }

    #[test]
    fn an_explanation_says_what_has_happened_and_what_to_do() {
        for (id, text) in catalogue() {
            let (head, body) = text.split_once("\n\n").unwrap();
            assert!(head.starts_with("Subject: "), "{id}: {head}");
            assert!(head.contains("\nDefined-By: dmashared\n"), "{id}: {head}");
            assert!(body.split_whitespace().count() > 10, "{id}: {body}");
        }
    }
}
