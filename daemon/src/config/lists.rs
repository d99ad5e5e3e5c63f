//! The sections of which a file can have several: `[[device]]` and `[[driver]]`.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Source, in_order, unknown};
use super::value::{self, Wrong};
use super::{Config, ConfigError, DeviceMatch, DeviceOverride, DriverOverride, WhileOpen};

pub(super) type Entry =
    fn(&mut Config, &Source<'_>, &DeTable<'_>, Range<usize>) -> Result<(), ConfigError>;

/// Every one there is: its name, and what takes an entry of it. The later one about the same thing
/// wins, and takes the later place.
pub(super) const LISTS: &[(&str, Entry)] = &[
    ("device", |to, source, table, span| {
        let said = device(source, table, span)?;
        to.devices.retain(|earlier| earlier.device != said.device);
        to.devices.push(said);
        Ok(())
    }),
    ("driver", |to, source, table, span| {
        let said = driver(source, table, span)?;
        to.drivers.retain(|earlier| earlier.name != said.name);
        to.drivers.push(said);
        Ok(())
    }),
];

/// Takes a list, entry by entry.
pub(super) fn read(
    config: &mut Config,
    source: &Source<'_>,
    list: &str,
    value: &Spanned<DeValue<'_>>,
    take: Entry,
) -> Result<(), ConfigError> {
    let wrong = |span, what: String| Err(source.place(span).wrong(list, what));
    let Some(entries) = value.get_ref().as_array() else {
        return wrong(value.span(), format!("is to be a list of sections, [[{list}]]"));
    };
    for entry in entries.iter() {
        let Some(table) = entry.get_ref().as_table() else {
            return wrong(entry.span(), format!("is to be a section, [[{list}]]"));
        };
        take(config, source, table, entry.span())?;
    }
    Ok(())
}

fn device(
    source: &Source<'_>,
    table: &DeTable<'_>,
    span: Range<usize>,
) -> Result<DeviceOverride, ConfigError> {
    let (mut device, mut removable) = (None, None);
    keys(source, "device", table, &["match", "removable"], |key, value| match key {
        "match" => value::text(value)
            .and_then(|text| text.parse::<DeviceMatch>().map_err(str::to_owned))
            .map(|read| device = Some(read)),
        _ => value::flag(value).map(|read| removable = Some(read)),
    })?;
    Ok(DeviceOverride {
        device: device.ok_or_else(|| missing(source, &span, "device.match"))?,
        removable: removable.ok_or_else(|| missing(source, &span, "device.removable"))?,
    })
}

fn driver(
    source: &Source<'_>,
    table: &DeTable<'_>,
    span: Range<usize>,
) -> Result<DriverOverride, ConfigError> {
    let (mut name, mut open) = (None, None);
    keys(source, "driver", table, &["name", "open"], |key, value| match key {
        "name" => driver_name(value).map(|read| name = Some(read)),
        _ => value::word(value, &[WhileOpen::LetsGo, WhileOpen::Blocks], WhileOpen::name)
            .map(|read| open = Some(read)),
    })?;
    Ok(DriverOverride {
        name: name.ok_or_else(|| missing(source, &span, "driver.name"))?,
        open: open.ok_or_else(|| missing(source, &span, "driver.open"))?,
    })
}

fn driver_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = value::text(value)?;
    match format!("driver:{name}").parse() {
        Ok(DeviceMatch::Driver(name)) => Ok(name),
        _ => Err("is to be a driver's name in sysfs, as amdgpu".to_owned()),
    }
}

/// Hands on each key of an entry, all of them in `known`, with its value.
fn keys(
    source: &Source<'_>,
    section: &str,
    table: &DeTable<'_>,
    known: &[&str],
    mut take: impl FnMut(&str, &DeValue<'_>) -> Result<(), Wrong>,
) -> Result<(), ConfigError> {
    for (name, value) in in_order(table) {
        let key = format!("{section}.{}", name.get_ref());
        let name_text = name.get_ref().as_ref();
        if !known.contains(&name_text) {
            return Err(source.place(name.span()).wrong(key, unknown("key", known)));
        }
        take(name_text, value.get_ref())
            .map_err(|what| source.place(value.span()).wrong(key, what))?;
    }
    Ok(())
}

fn missing(source: &Source<'_>, span: &Range<usize>, key: &str) -> ConfigError {
    source.place(span.clone()).wrong(key, "is missing")
}
