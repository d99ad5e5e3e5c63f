//! Every key there is: how it is read and where it goes.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tracing_subscriber::EnvFilter;

use super::limits;
use super::lists::{self, LISTS};
use super::value::{self, Wrong};
use super::{Backend, Config, ConfigError, Heap, Overdue};

pub(super) type Set = fn(&mut Config, &DeValue<'_>) -> Result<(), Wrong>;

/// A day: beyond it a deadline would be none.
const LONG_MS: u32 = 24 * 60 * 60 * 1000;
/// An hour: beyond it nobody looks.
const LIVENESS_MS: u32 = 60 * 60 * 1000;

pub(super) const SECTIONS: &[(&str, &[(&str, Set)])] = &[
    (
        "broker",
        &[
            ("socket", |to, v| value::path(v).map(|path| to.broker.socket = path)),
            ("state_dir", |to, v| value::path(v).map(|path| to.broker.state_dir = path)),
            ("ack_timeout_ms", |to, v| {
                value::millis(v, 10, 60_000).map(|time| to.broker.ack_timeout = time)
            }),
            ("overdue", |to, v| {
                let set = [Overdue::Report, Overdue::Disconnect, Overdue::Kill];
                value::word(v, &set, Overdue::name).map(|word| to.broker.overdue = word)
            }),
        ],
    ),
    (
        "fence",
        &[
            ("backend", |to, v| {
                let set = [Backend::Auto, Backend::SwSync, Backend::Vgem, Backend::None];
                value::word(v, &set, Backend::name).map(|word| to.fence.backend = word)
            }),
            ("sw_sync_path", |to, v| value::path(v).map(|path| to.fence.sw_sync_path = path)),
            ("deadline_ms", |to, v| {
                value::millis(v, 1, LONG_MS).map(|time| to.fence.deadline = time)
            }),
            ("max_deadline_ms", |to, v| {
                value::millis(v, 1, LONG_MS).map(|time| to.fence.max_deadline = time)
            }),
        ],
    ),
    (
        "neutral",
        &[("heap", |to, v| {
            let set = [Heap::Auto, Heap::Udmabuf, Heap::System, Heap::None];
            value::word(v, &set, Heap::name).map(|word| to.heap = word)
        })],
    ),
    (
        "eject",
        &[
            ("delay_ms", |to, v| value::millis(v, 0, 600_000).map(|time| to.eject.delay = time)),
            ("helpers", |to, v| value::path(v).map(|path| to.eject.helpers = path)),
        ],
    ),
    ("limits", limits::KEYS),
    (
        "devices",
        &[("liveness_ms", |to, v| value::millis(v, 0, LIVENESS_MS).map(|time| to.liveness = time))],
    ),
    ("log", &[("level", |to, v| log_level(v).map(|level| to.log.level = level))]),
];

fn log_level(value: &DeValue<'_>) -> Result<String, Wrong> {
    let level = value::text(value)?;
    // After a blank, `EnvFilter` reads each directive as if it began elsewhere, and may panic.
    if !level.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "has a blank, or what is not ASCII; commas alone part directives";
        return Err(format!("{level:?}: {what}"));
    }
    EnvFilter::try_new(&level).map_err(|error| format!("{level:?}: {error}"))?;
    Ok(level)
}

/// Where something is in the files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: PathBuf,
    line: usize,
}

impl Place {
    pub(super) fn wrong(self, key: impl Into<String>, what: impl Into<String>) -> ConfigError {
        ConfigError::Wrong { file: self.file, line: self.line, key: key.into(), what: what.into() }
    }
}

/// One file's text.
pub(super) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Place { file: self.file.to_owned(), line }
    }
}

/// Takes the files one after another; a later one wins, key by key.
#[derive(Default)]
pub(super) struct Reader {
    config: Config,
    places: HashMap<String, Place>,
}

impl Reader {
    pub(super) fn read(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let source = Source { file, text };
        let root = DeTable::parse(text).map_err(|error| {
            source.place(error.span().unwrap_or(0..0)).wrong("", error.message())
        })?;
        for (name, value) in in_order(root.get_ref()) {
            let here = || source.place(name.span());
            let name = name.get_ref().as_ref();
            if let Some((_, take)) = LISTS.iter().find(|(list, _)| *list == name) {
                lists::read(&mut self.config, &source, name, value, *take)?;
                continue;
            }
            let Some((_, keys)) = SECTIONS.iter().find(|(section, _)| *section == name) else {
                let mut known: Vec<_> = SECTIONS.iter().map(|(section, _)| *section).collect();
                known.extend(LISTS.iter().map(|(list, _)| *list));
                return Err(here().wrong(name, unknown("section", &known)));
            };
            let Some(table) = value.get_ref().as_table() else {
                return Err(here().wrong(name, format!("is to be a section, [{name}]")));
            };
            self.section(&source, name, keys, table)?;
        }
        Ok(())
    }

    fn section(
        &mut self,
        source: &Source<'_>,
        section: &str,
        keys: &[(&str, Set)],
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        for (name, value) in in_order(table) {
            let place = source.place(name.span());
            let key = format!("{section}.{}", name.get_ref());
            let Some((_, set)) = keys.iter().find(|(known, _)| *known == name.get_ref()) else {
                let known: Vec<_> = keys.iter().map(|(known, _)| *known).collect();
                return Err(place.wrong(key, unknown("key", &known)));
            };
            if let Err(what) = set(&mut self.config, value.get_ref()) {
                return Err(source.place(value.span()).wrong(key, what));
            }
            self.places.insert(key, place);
        }
        Ok(())
    }

    /// What holds between keys.
    pub(super) fn finish(self) -> Result<Config, ConfigError> {
        let fence = &self.config.fence;
        if fence.deadline > fence.max_deadline {
            let what = format!(
                "the default deadline of {} ms is beyond max_deadline_ms, {}",
                fence.deadline.as_millis(),
                fence.max_deadline.as_millis()
            );
            // One of the two was read from a file: the defaults go together.
            for key in ["fence.deadline_ms", "fence.max_deadline_ms"] {
                if let Some(place) = self.places.get(key) {
                    return Err(place.clone().wrong(key, what));
                }
            }
        }
        let mut config = self.config;
        limits::agree(&mut config.limits, &self.places)?;
        Ok(config)
    }
}

/// The entries of a table as they stand in the file, so that the first mistake is the one told.
pub(super) fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

pub(super) fn unknown(what: &str, known: &[&str]) -> String {
    format!("no such {what}; there is {}", known.join(", "))
}
