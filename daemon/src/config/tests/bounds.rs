//! Defaults and bounds of keys are checked in one place and written down in others: the example's
//! comments, PROTOCOL.md. Here they are held together, key by key, from the list of all keys.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::Etc;
use crate::config::keys::SECTIONS;

const EXAMPLE: &str = include_str!("../example.toml");
const PROTOCOL: &str = include_str!("../../../../proto/PROTOCOL.md");

/// The keys that are numbers, as `(section, key)`, with the default. The example has every key there
/// is.
fn numbers() -> BTreeMap<(&'static str, &'static str), u32> {
    let example = DeTable::parse(EXAMPLE).unwrap();
    let mut numbers = BTreeMap::new();
    for (section, keys) in SECTIONS {
        let table = example.get_ref().get(*section).unwrap_or_else(|| panic!("no [{section}]"));
        let table = table.get_ref().as_table().unwrap();
        for (key, _) in *keys {
            let value = table.get(*key).unwrap_or_else(|| panic!("no {section}.{key}"));
            if let Some(number) = value.get_ref().as_integer() {
                numbers.insert((*section, *key), number.as_str().parse().unwrap());
            }
        }
    }
    numbers
}

/// What the example says of a key, and of all keys of its section.
fn said(section: &str, key: &str) -> String {
    let section = EXAMPLE.split_once(&format!("\n[{section}]\n")).unwrap().1;
    let comment = |line: &&str| line.starts_with('#');
    let of_all = section.lines().take_while(comment).filter(|line| line.starts_with("# Each "));
    let before: Vec<&str> =
        section.lines().take_while(|line| !line.starts_with(&format!("{key} = "))).collect();
    let mut of_key: Vec<&str> = before.into_iter().rev().take_while(comment).collect();
    of_key.reverse();
    let lines: Vec<&str> =
        of_all.chain(of_key).map(|line| line.trim_start_matches(['#', ' '])).collect();
    lines.join(" ")
}

#[test]
fn the_example_says_the_bounds_of_every_number() {
    for ((section, key), default) in numbers() {
        // Beyond all bounds: the error says which.
        let error = Etc::new(&format!("[{section}]\n{key} = {}\n", u32::MAX)).error();
        let bounds = error.split_once("is to be ").and_then(|(_, rest)| rest.split_once(','));
        let (bounds, _) = bounds.unwrap_or_else(|| panic!("{section}.{key}: {error}"));
        let (least, most) = bounds.split_once(" to ").unwrap();
        let (least, most): (u32, u32) = (least.parse().unwrap(), most.parse().unwrap());
        assert!((least..=most).contains(&default), "{section}.{key} = {default} of {bounds}");
        let said = said(section, key);
        assert!(said.contains(bounds), "{section}.{key} is {bounds}, the example says: {said}");
    }
}

#[test]
fn the_example_says_every_word_that_a_key_takes() {
    for (section, key) in [("broker", "overdue"), ("fence", "backend"), ("neutral", "heap")] {
        let error = Etc::new(&format!("[{section}]\n{key} = \"no such word\"\n")).error();
        let (_, words) = error.split_once("is to be one of ").unwrap();
        let (words, _) = words.split_once(", not ").unwrap();
        let said = said(section, key);
        for word in words.split(", ") {
            assert!(said.contains(word), "{section}.{key} takes {word}, the example says: {said}");
        }
    }
}

#[test]
fn protocol_md_has_the_limits_with_their_defaults() {
    let numbers = numbers();
    let mut there = Vec::new();
    for line in PROTOCOL.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &["", _, key, default, _, ""] = cells.as_slice() else { continue };
        let Some((section, key)) = key.trim_matches('`').split_once('.') else { continue };
        let (name, number) = numbers
            .get_key_value(&(section, key))
            .unwrap_or_else(|| panic!("PROTOCOL.md has {section}.{key}, which is no number here"));
        assert_eq!(default, number.to_string(), "{section}.{key} in PROTOCOL.md");
        there.push(*name);
    }
    for name in numbers.keys().filter(|(section, _)| *section == "limits") {
        assert!(there.contains(name), "PROTOCOL.md lacks the limit {name:?}");
    }
}
