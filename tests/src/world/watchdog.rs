//! systemd's watchdog over the service, with a period that a test can wait for (virtual machine).

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::vm::{UNIT, came_back, journalctl, log, systemctl, upgrade};
use super::{BOUND, World};
use crate::Process;
use crate::process::eventually;

/// What the unit is told until the next boot, or until it is taken away.
const DROPIN: &str = "/run/systemd/system/dmashared.service.d/watchdog.conf";

/// While this is there, the service has to say that it lives within a period that is not its unit's.
pub struct Watched(());

impl Watched {
    pub(super) fn begin(period: Duration) -> Result<Self> {
        let dropin = Path::new(DROPIN);
        fs::create_dir_all(dropin.parent().context("a folder")?)?;
        fs::write(dropin, format!("[Service]\nWatchdogSec={}ms\n", period.as_millis()))?;
        // From here on it is taken away, whatever comes.
        let this = Self(());
        systemctl(&["daemon-reload"])?;
        // The period is one for a life, and told to the service at its start.
        upgrade()?;
        let said = systemctl(&["show", "-P", "WatchdogUSec", UNIT])?;
        ensure!(said != "0" && said != "1min", "the service's watchdog has a period of {said}");
        Ok(this)
    }

    /// Waits until the service has said once more that it lives.
    ///
    /// # Errors
    /// It does not, or is ended meanwhile.
    pub fn is_fed(&self) -> Result<()> {
        let (life, last) = (invocation()?, last_fed()?);
        eventually("the service feeds its watchdog", BOUND, || {
            ensure!(invocation()? == life, "it was ended, and did nothing wrong:\n{}", log());
            Ok(last_fed()? != last)
        })
    }

    /// Makes the service stand still, waits until it is ended for that, as its unit has it, and is
    /// there again.
    ///
    /// # Errors
    /// It is not ended, or by somebody else; it does not come back.
    pub fn ends(&self, stands_still: impl FnOnce(Process) -> Result<()>) -> Result<()> {
        let (broker, life) = (super::vm::broker()?, invocation()?);
        stands_still(broker)?;
        came_back(broker)?;
        // What systemd has to say of that life; it may be on its way still.
        journalctl(&["--sync"])?;
        let of_it = format!("INVOCATION_ID={life}");
        let said = journalctl(&["--boot", "--no-pager", "--output=cat", &of_it])?;
        for word in ["Watchdog timeout", "status=6/ABRT"] {
            ensure!(said.contains(word), "no {word:?} in what systemd said of it:\n{said}");
        }
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let undo = || -> Result<()> {
            fs::remove_file(DROPIN)?;
            systemctl(&["daemon-reload"])?;
            upgrade()
        };
        if let Err(error) = undo() {
            println!("  the service's watchdog has a short period still: {error:#}");
        }
    }
}

impl World {
    /// Gives the service's watchdog another period, for which it is restarted.
    ///
    /// # Errors
    /// There is no systemd (simulated); the service does not start.
    pub fn watch_service(&self, period: Duration) -> Result<Watched> {
        if self.is_simulated() {
            bail!("a simulated machine has no service manager");
        }
        let watched = Watched::begin(period)?;
        self.wait_ready()?;
        Ok(watched)
    }
}

/// The service's life: another one after each start.
fn invocation() -> Result<String> {
    systemctl(&["show", "-P", "InvocationID", UNIT])
}

fn last_fed() -> Result<String> {
    systemctl(&["show", "-P", "WatchdogTimestampMonotonic", UNIT])
}
