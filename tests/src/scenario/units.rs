//! The installed units, as systemd itself looks at them: whether they are sound, and how much they are
//! exposed.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::World;
use crate::scenario::figures::show;

/// Each service, with what its exposure may be in tenths (systemd-analyze(1), `security`): what it has now. One
/// that needs another right has its reason in its unit, and its figure here.
const EXPOSED: &[(&str, u32)] = &[
    ("dmashared.service", 12),
    ("dmashare-holders@look.service", 18),
    ("dmashare-kill@look.service", 7),
    ("dmashare-pci@look.service", 9),
];

pub(super) fn run(_: &mut World) -> Result<()> {
    for unit in [
        "dmashared.service",
        "dmashared.socket",
        "dmashare-holders.socket",
        "dmashare-holders@.service",
        "dmashare-keeper.socket",
        "dmashare-keeper@.service",
        "dmashare-kill.socket",
        "dmashare-kill@.service",
        "dmashare-pci.socket",
        "dmashare-pci@.service",
    ] {
        let out = Command::new("systemd-analyze")
            .args(["verify", "--man=no", unit])
            .output()
            .context("systemd-analyze")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success() && said.is_empty(), "{unit}: {} {said}", out.status);
    }
    for (unit, most) in EXPOSED {
        let out = Command::new("systemd-analyze")
            .args(["security", "--no-pager", &format!("--threshold={most}"), unit])
            .output()
            .context("systemd-analyze")?;
        let said = String::from_utf8_lossy(&out.stdout);
        let overall = said.lines().find(|line| line.contains("Overall exposure"));
        ensure!(out.status.success() && overall.is_some(), "{unit}: {} {said}", out.status);
        show(format_args!("{}", overall.unwrap_or_default()));
    }
    Ok(())
}
