//! Where things lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map(Path::to_path_buf).unwrap_or(here)
}

/// Cargo's target directory: the one this program was built in.
pub fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find out where I am")?;
    let target = exe.parent().and_then(Path::parent).context("not in a target directory")?;
    Ok(target.to_path_buf())
}

/// Where the development builds lie.
pub fn debug() -> Result<PathBuf> {
    Ok(target()?.join("debug"))
}

/// What belongs to the virtual machine of this checkout.
pub fn vm() -> Result<PathBuf> {
    let dir = target()?.join("vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// What scenarios leave to be looked at: screenshots, pictures. In the guest it is /mnt/share, where no
/// other directory is shared.
pub fn artefacts() -> Result<PathBuf> {
    let dir = vm()?.join("artefacts");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Shared by all checkouts of one user.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME")?)
            .join(".cache"),
    };
    let dir = base.join("dmashare");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The last lines of a log, for who is to know why something failed.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
