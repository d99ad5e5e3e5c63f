//! The seeds of the fuzz targets (`fuzz/corpus`) are what the codec and the files of this tree say now.
//!
//! `DMASHARE_BLESS=1 cargo test -p dmashare-tests --test seeds` writes them anew. Those of `snapshot` are
//! the model's: see `daemon/src/core/model/seeds.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod codec;
mod helper;
mod stream;
mod texts;

/// A seed by its name.
type Seeds = BTreeMap<String, Vec<u8>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What is in the repository of a target, but for what a fuzzer left there (named by SHA-1) and what it
/// once found (`found-…`).
fn there(folder: &Path) -> Seeds {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let is_left = |name: &str| name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit());
    names
        .filter(|name| !is_left(name) && !name.starts_with("found-"))
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()))
        .collect()
}

/// Holds the seeds of a target against those in the repository, or writes them.
fn are_current(target: &str, seeds: Seeds) {
    let folder = root().join("fuzz/corpus").join(target);
    let there = there(&folder);
    if std::env::var_os("DMASHARE_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for name in there.keys().filter(|name| !seeds.contains_key(*name)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        for (name, bytes) in &seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
        return;
    }
    let wrong = |name: &&String| there.get(*name) != seeds.get(*name);
    let wrong: Vec<_> = seeds.keys().chain(there.keys()).filter(wrong).collect();
    assert!(wrong.is_empty(), "other seeds of {target} (DMASHARE_BLESS=1 writes them): {wrong:?}");
    assert!(seeds.values().all(|bytes| bytes.len() <= 4096), "seeds are small");
}

#[test]
fn those_of_codec() {
    are_current("codec", codec::seeds());
}

#[test]
fn those_of_helper() {
    are_current("helper", helper::seeds());
}

#[test]
fn those_of_stream() {
    are_current("stream", stream::seeds());
}

#[test]
fn those_of_uevent() {
    are_current("uevent", texts::uevents());
}

#[test]
fn those_of_config() {
    are_current("config", texts::configurations());
}
