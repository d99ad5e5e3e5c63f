//! What an unplug leaves in the journal, as a person reads it: each line that matters is explained, by the
//! catalogue that is installed, with what it is about in its place.

use anyhow::{Result, ensure};

use super::pair::Pair;
use crate::actor::Task;
use crate::scenario::figures::show;
use crate::world::journalctl;
use crate::{BOUND, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let card = pair.card.clone();
    let (key, _, device) =
        pair.exporter.call(Task::Export { card, width: 16, height: 16 })?.object()?;
    let token = pair.token_for(&pair.importer, key)?;
    pair.importer.call(Task::Import { token, by: None })?.object()?;
    let name = pair.card.pci.clone();
    world.unplug(Unplug::Remove)?;
    world.wait_gone(device)?;
    let pid = world.broker()?.0;
    for wanted in [
        format!("Subject: GPU {name} is there"),
        format!("Subject: GPU {} is lost: unplugged", device.0),
        "Programs shared 1 buffers of it, in 1 imports,".to_owned(),
        "and 0 fences were pending: all of these have ended".to_owned(),
        format!("Subject: Unplug of GPU {}: clients told", device.0),
        format!("Subject: Nothing of GPU {} is held any more", device.0),
        "Documentation: man:dmasharectl-report(1)".to_owned(),
    ] {
        explained(pid, &wanted)?;
    }
    let whole = journal(&["--catalog", &format!("_PID={pid}")])?;
    let left = whole.lines().filter(|line| line.contains("@DMASHARE_")).collect::<Vec<_>>();
    ensure!(left.is_empty(), "what the lines are about is not in its place: {left:?}");
    let lines = journal(&["--output=json", "--output-fields=MESSAGE_ID", &format!("_PID={pid}")])?;
    let known = lines.lines().filter(|line| line.contains("MESSAGE_ID")).count();
    show(format_args!("{known} of {} lines have an explanation", lines.lines().count()));
    Ok(())
}

/// Its own process's lines; what it wrote may be on its way still.
fn explained(pid: i32, wanted: &str) -> Result<()> {
    crate::process::eventually(wanted, BOUND, || {
        journal(&["--sync"])?;
        Ok(journal(&["--catalog", &format!("_PID={pid}")])?.contains(wanted))
    })
}

fn journal(arguments: &[&str]) -> Result<String> {
    journalctl(&[&["--boot", "--no-pager"], arguments].concat())
}
