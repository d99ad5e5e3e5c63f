//! Faults while the broker starts: it starts all the same, or says why it does not.

use anyhow::{Context, Result, ensure};

use super::calls::FAULTS;
use crate::World;
use crate::hostile::service::Service;
use crate::scenario::figures::{note, show};

/// In which call of its kind, counted from the beginning of the program, the loader's among them.
const FEW: &[u32] = &[1, 3];
const WIDE: &str = "DMASHARE_FAULTS_WIDE";

pub(super) fn run(world: &mut World) -> Result<()> {
    let few = FEW.to_vec();
    let whens = if std::env::var_os(WIDE).is_some() { (1..=40).collect() } else { few };
    let (mut started, mut refused) = (0, 0);
    for fault in FAULTS {
        for when in &whens {
            let error = fault.errors[*when as usize % fault.errors.len()];
            let words = format!("inject={}:error={error}:when={when}", fault.call);
            if starts(world, &words).with_context(|| words.clone())? {
                started += 1;
            } else {
                refused += 1;
            }
        }
    }
    show(format_args!("started {started} times, and said {refused} times why it does not"));
    note("started, refused to", vec![started, refused]);
    Ok(())
}

fn starts(world: &World, words: &str) -> Result<bool> {
    let mut service = Service::new(world, true)?;
    service.by(&["strace", "-D", "-f", "-o", "/dev/null", "-e", words]);
    let started = match service.start(&world.bus_address()) {
        Ok(()) => true,
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains("it ended with"), "neither ready nor ended: {text}");
            ensure!(!text.contains("signal"), "it did not end by itself: {text}");
            let log = service.log();
            ensure!(!log.trim().is_empty(), "it ended, and did not say why: {text}");
            false
        }
    };
    let log = service.log();
    ensure!(!log.contains("panicked"), "it panicked: {log}");
    if started {
        service.stop()?;
    }
    Ok(started)
}
