//! What the service counts, and what monitoring is given of it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, Grant, Importer, Token};

use super::local::{Local, ends_by, ends_well, told};
use crate::{Buffer, Source, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let before = world.bus().counters()?;
    let local = Local::new(world)?;
    let frame = Buffer::make(&local.card, 16, 16)?;
    let planes = [frame.dma_buf.as_fd()];
    let exported = local.exporter.export(frame.node.as_fd(), &frame.layout, &planes)?;
    let token = local.exporter.grant(&exported, Grant::default())?;
    let import = local.importer.import(token, Importer::Cpu)?;
    ensure!(
        local.importer.import(Token::from_bytes([7; 16]), Importer::Cpu).is_err(),
        "a token of nobody's"
    );
    let mut sources =
        [Source::endless(world.is_simulated())?, Source::endless(world.is_simulated())?];
    let fences = [local.guard(sources[0].fd())?, local.guard(sources[1].fd())?];
    sources[0].signal()?;
    ends_well(&fences[0])?;
    // What a person is shown is what there is now.
    let device = world.device(&world.egpu()?)?;
    world.wait_counts(local.device, (1, 1, 1))?;
    let text = metrics(world, &[])?;
    for line in [
        "dmashare_up 1".to_owned(),
        format!(
            "dmashare_device_buffers{{device=\"{}\",driver=\"{}\",id=\"{}\"}} 1",
            device.name, device.driver, local.device.0
        ),
        "# TYPE dmashare_buffers_exported_total counter".to_owned(),
        format!("dmashare_buffers_exported_total {}", before["buffers_exported"] + 1),
    ] {
        ensure!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }

    world.unplug(Unplug::Remove)?;
    ends_by(world, &fences[1], Cause::Unplugged)?;
    told(&local.importer, local.device)?.acknowledge()?;
    drop((import, exported, fences));
    world.wait_gone(local.device)?;
    let after = world.bus().counters()?;
    let more: BTreeMap<&str, u64> = after
        .iter()
        .map(|(name, value)| (name.as_str(), value - before.get(name).copied().unwrap_or(0)))
        .filter(|(_, more)| *more > 0)
        .collect();
    let wanted = [
        ("buffers_exported", 1),
        ("buffers_imported", 1),
        ("buffers_lost", 1),
        ("clients_connected", 2),
        ("devices_unplugged", 1),
        ("fences_done", 1),
        ("fences_imported", 2),
        ("fences_lost", 1),
        ("fences_shared", 2),
        ("imports_revoked", 1),
        ("requests_refused", 1),
    ];
    for (name, value) in wanted {
        ensure!(more.get(name) == Some(&value), "{name} is not {value} more: {more:?}");
    }
    // Nothing else but tokens, of which the fences took some.
    let other = more.keys().filter(|name| !wanted.iter().any(|(wanted, _)| wanted == *name));
    ensure!(other.eq(&["tokens_granted"]), "{more:?}");

    // Into a file, which is there whole or not at all.
    let folder = tempfile::tempdir().context("a folder")?;
    let file = folder.path().join("dmashare.prom");
    let path = file.to_str().context("a path")?;
    ensure!(metrics(world, &["--textfile", path])?.is_empty(), "it prints beside the file");
    let text = std::fs::read_to_string(&file).context(path.to_owned())?;
    let line = format!("dmashare_devices_unplugged_total {}", after["devices_unplugged"]);
    ensure!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    let out = ctl(world, &["--textfile", "/nowhere/dmashare.prom"])?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        !out.status.success() && said.contains("/nowhere/dmashare.prom"),
        "a folder that is not there: {} {said}",
        out.status
    );
    Ok(())
}

fn metrics(world: &World, arguments: &[&str]) -> Result<String> {
    let out = ctl(world, arguments)?;
    ensure!(out.status.success(), "{} {}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn ctl(world: &World, arguments: &[&str]) -> Result<std::process::Output> {
    let bus = world.bus_address();
    let own = std::env::current_exe().context("where this is")?;
    // Beside it in the simulated machine, installed in the other.
    let beside = own.with_file_name("dmasharectl");
    let program = if beside.exists() { beside } else { "dmasharectl".into() };
    Command::new(program)
        .args(["--bus", &bus, "metrics"])
        .args(arguments)
        .output()
        .context("dmasharectl")
}
