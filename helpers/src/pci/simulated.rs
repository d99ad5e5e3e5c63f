//! A folder of simulated devices in place of sysfs (`daemon/src/devices/simulated.rs`). Beside what is
//! there:
//!
//! | path | is |
//! | --- | --- |
//! | `devices/NAME/blocks` | a FIFO: the removal waits until somebody has opened it for writing |
//! | `unplugged/NAME` | where a removed device waits for the rescan |

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use dmashare_proto::sysfs::{Nudge, Request};

/// Carries a request out.
///
/// # Errors
/// There is no such device, or nobody who could hear of it.
pub fn carry_out(folder: &Path, request: &Request) -> io::Result<()> {
    match request {
        Request::Nudge { nodes, action } => {
            nodes.iter().try_for_each(|node| nudge(folder, node, *action))
        }
        Request::Remove { pci } => remove(folder, pci),
        Request::Rescan => rescan(folder),
        Request::Deauthorize { router } => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("no Thunderbolt device {router}")))
        }
    }
}

fn nudge(folder: &Path, devpath: &str, action: Nudge) -> io::Result<()> {
    uevent(folder, action.name(), devpath, "drm", "SYNTH_UUID=0\0")
}

fn remove(folder: &Path, pci: &str) -> io::Result<()> {
    let device = find(folder, pci)?;
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let away = folder.join("unplugged").join(&name);
    fs::create_dir_all(folder.join("unplugged"))?;
    let blocks = device.join("blocks");
    let nodes: Vec<String> = fs::read_dir(&device)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("card") || name.starts_with("render"))
        .collect();
    if blocks.exists() {
        // As in the kernel, the nodes go first; then it waits.
        tell_of_nodes(folder, &name, &nodes)?;
        drop(fs::File::open(&blocks)?);
        fs::remove_file(&blocks)?;
        fs::rename(&device, &away)?;
    } else {
        fs::rename(&device, &away)?;
        tell_of_nodes(folder, &name, &nodes)?;
    }
    uevent(folder, "remove", &format!("/devices/sim/{name}"), "pci", "")
}

fn tell_of_nodes(folder: &Path, name: &str, nodes: &[String]) -> io::Result<()> {
    let tell = |node: &String| {
        uevent(folder, "remove", &format!("/devices/sim/{name}/drm/{node}"), "drm", "")
    };
    nodes.iter().try_for_each(tell)
}

/// As another device: a node that comes back is a new file.
fn rescan(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder.join("unplugged")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let away = entry?.path();
        let name = away.file_name().unwrap_or_default().to_owned();
        let back = folder.join("devices").join(name);
        let toml = fs::read(away.join("device.toml"))?;
        fs::create_dir_all(&back)?;
        for file in fs::read_dir(&away)?.flatten() {
            if file.file_name() != "device.toml" {
                fs::copy(file.path(), back.join(file.file_name()))?;
            }
        }
        // Written last: without it the folder is not complete.
        fs::write(back.join("device.toml"), toml)?;
        fs::remove_dir_all(&away)?;
    }
    UnixDatagram::unbound()?.send_to(b"rescan", folder.join("udev.sock")).map(drop)
}

fn find(folder: &Path, pci: &str) -> io::Result<PathBuf> {
    let line = format!("pci = \"{pci}\"");
    let is_it = |device: &PathBuf| {
        let toml = fs::read_to_string(device.join("device.toml"));
        toml.is_ok_and(|toml| toml.lines().any(|found| found == line))
    };
    let devices = fs::read_dir(folder.join("devices"))?.flatten().map(|entry| entry.path());
    let none = || io::Error::new(io::ErrorKind::NotFound, format!("no simulated device {pci}"));
    devices.into_iter().find(is_it).ok_or_else(none)
}

/// As lib/kobject_uevent.c writes them.
fn uevent(folder: &Path, action: &str, path: &str, subsystem: &str, more: &str) -> io::Result<()> {
    let text = format!(
        "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0{more}SEQNUM=1\0"
    );
    UnixDatagram::unbound()?.send_to(text.as_bytes(), folder.join("uevent.sock")).map(drop)
}
