//! A value in a file, and its reading as what a key wants.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

/// What is wrong with a value.
pub(super) type Wrong = String;

fn wrong_type(wanted: &str, value: &DeValue<'_>) -> Wrong {
    format!("is to be {wanted}, not {}", article(value.type_str()))
}

fn article(noun: &str) -> String {
    if noun.starts_with(['a', 'i']) { format!("an {noun}") } else { format!("a {noun}") }
}

pub(super) fn text(value: &DeValue<'_>) -> Result<String, Wrong> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong_type("a string", value))
}

pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| wrong_type("true or false", value))
}

pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() { Ok(path) } else { Err("is to be an absolute path".to_owned()) }
}

pub(super) fn number(value: &DeValue<'_>, least: u32, most: u32) -> Result<u32, Wrong> {
    let integer = value.as_integer().ok_or_else(|| wrong_type("a whole number", value))?;
    i64::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("is to be {least} to {most}, not {integer}"))
}

pub(super) fn millis(value: &DeValue<'_>, least: u32, most: u32) -> Result<Duration, Wrong> {
    number(value, least, most).map(|ms| Duration::from_millis(ms.into()))
}

/// One of a set of words.
pub(super) fn word<T: Copy>(
    value: &DeValue<'_>,
    set: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, Wrong> {
    let given = text(value)?;
    set.iter().copied().find(|&one| name(one) == given).ok_or_else(|| {
        let words: Vec<_> = set.iter().map(|&one| format!("{:?}", name(one))).collect();
        format!("is to be one of {}, not {given:?}", words.join(", "))
    })
}
