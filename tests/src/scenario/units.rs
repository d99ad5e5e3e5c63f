//! The installed units, as systemd itself looks at them.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::World;

pub(super) fn run(_: &mut World) -> Result<()> {
    for unit in [
        "dmashared.service",
        "dmashared.socket",
        "dmashare-holders.socket",
        "dmashare-holders@.service",
        "dmashare-keeper.socket",
        "dmashare-keeper@.service",
    ] {
        let out = Command::new("systemd-analyze")
            .args(["verify", "--man=no", unit])
            .output()
            .context("systemd-analyze")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success() && said.is_empty(), "{unit}: {} {said}", out.status);
    }
    Ok(())
}
