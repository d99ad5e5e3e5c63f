//! The seeds of the fuzz target `snapshot` (`fuzz/corpus/snapshot`): what is kept of the model after a few
//! operations.
//!
//! `DMASHARE_BLESS=1 cargo test -p dmashared --lib seeds` writes them anew.

use std::fs;
use std::path::Path;

use super::*;
use crate::core::fuzzing;

/// Two clients, a card that can be pulled (1) and one that stays (0); a buffer, its import, an ended and a
/// pending fence, which is imported.
fn begin() -> Vec<Op> {
    vec![
        Op::Connect,
        Op::Connect,
        Op::Plug(0),
        Op::Plug(1),
        Op::Export(0, 1, 2),
        Op::Grant(0, 0, 2),
        Op::Import(1, 0),
        Op::Share(0, 1, 0),
        Op::Share(0, 1, 3),
        Op::Grant(0, 1, 2),
        Op::ImportFence(1, 1),
        Op::Grant(0, 2, 2),
        Op::ImportFence(1, 2),
    ]
}

fn timelines() -> Vec<Op> {
    vec![
        Op::Timeline(0, 1, 0),
        Op::Timeline(0, 0, 1),
        Op::Grant(0, 3, 2),
        Op::ImportTimeline(1, 3),
        Op::Promise(0, 3, 9),
        Op::Submit(0, 3, 2, 1),
        Op::Submit(0, 3, 4, 1),
        Op::EndFence(1, true),
    ]
}

fn scenes() -> [(&'static str, Vec<Op>); 6] {
    let with = |more: Vec<Op>| [begin(), more].concat();
    [
        ("shared", begin()),
        ("timelines", with(timelines())),
        ("lost", with([timelines(), vec![Op::CloseGate(1), Op::Lose(0)]].concat())),
        (
            "neutral",
            with(vec![
                Op::Allocate(0, 8, 0),
                Op::Inhibit(0, 0, 0),
                Op::InhibitByBus(0, 1),
                Op::Declare(1, 1, true),
                Op::Drain(1, true),
            ]),
        ),
        ("rehearsed", with(vec![Op::RehearseFor(1, 1, false)])),
        ("maker-left", with([timelines(), vec![Op::Disconnect(0)]].concat())),
    ]
}

/// What is kept at its end. Tokens are random to a client; these are the model's.
fn seed(scene: Vec<Op>) -> Vec<u8> {
    let mut model = Model::beginning_at(1);
    scene.into_iter().for_each(|op| model.apply(op));
    model.keep();
    fuzzing::write(model.keeper.records()).expect("seeds are small")
}

#[test]
fn seeds_of_snapshot_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/snapshot");
    for (name, scene) in scenes() {
        let bytes = seed(scene);
        assert_eq!(fuzzing::is_taken(&bytes), Ok(()), "{name}");
        fuzzing::snapshot(&bytes);
        if std::env::var_os("DMASHARE_BLESS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
            continue;
        }
        let there = fs::read(folder.join(name)).unwrap();
        assert!(there == bytes, "another seed of {name} (DMASHARE_BLESS=1 writes it)");
    }
}
