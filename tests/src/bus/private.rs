//! A bus of one's own, on which everybody may do everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=@PATH@</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"#;

/// The socket of a bus whose files are in this folder.
#[must_use]
pub fn socket_in(folder: &Path) -> PathBuf {
    folder.join("bus.sock")
}

/// What runs the bus: it listens in the folder, and writes a line when it does. What it has to say besides is
/// in `bus.log` there.
///
/// # Errors
/// The folder cannot be written to.
pub fn dbus_daemon(folder: &Path) -> Result<Command> {
    let config = folder.join("bus.conf");
    let socket = socket_in(folder);
    fs::write(&config, CONFIG.replace("@PATH@", &socket.to_string_lossy()))
        .with_context(|| format!("cannot write {}", config.display()))?;
    let mut command = Command::new("dbus-daemon");
    command
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--nopidfile", "--print-address=1"])
        .stdin(Stdio::null())
        .stderr(fs::File::create(folder.join("bus.log"))?);
    Ok(command)
}
