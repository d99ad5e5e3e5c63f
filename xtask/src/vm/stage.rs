//! What the guest sees of the build, at /mnt/stage: programs and the systemd directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{cargo, paths};

/// Where it lies on the host.
pub fn dir() -> Result<PathBuf> {
    Ok(paths::vm()?.join("stage"))
}

/// What is put there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// A fresh build.
    Build,
    /// What an earlier command left there: for when the tree does not build at the moment.
    AsItIs,
}

/// Builds what goes into the guest, and puts it in place.
pub fn fill(what: Fill, progress: &Progress) -> Result<()> {
    if what == Fill::AsItIs {
        cargo::build(cargo::AGENT)?;
        return copy_programs(&["vm-agent"]);
    }
    progress.step("build what goes into the virtual machine", || {
        cargo::build(cargo::SHIPPED)?;
        // Kept before another build, with other features, can replace it.
        copy_programs(&["dmashared", "dmasharectl"])?;
        cargo::build(cargo::TESTS)?;
        cargo::build(cargo::AGENT)?;
        copy_programs(&["dmashare-scenarios", "dmashare-demo", "vm-agent"])
    })?;
    let units = paths::root().join("systemd");
    if units.is_dir() {
        copy_tree(&units, &dir()?.join("systemd"))?;
    }
    Ok(())
}

fn copy_programs(names: &[&str]) -> Result<()> {
    let bin = dir()?.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    for name in names {
        let program = cargo::program(name)?;
        if program.exists() {
            copy_file(&program, &bin.join(name))?;
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// A new file every time, never new contents in the old one: the guest may be running that.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    if same(from, to) {
        return Ok(());
    }
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    fs::copy(from, &unfinished)
        .and_then(|_| fs::rename(&unfinished, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// A copy is younger than what it was made from.
fn same(from: &Path, to: &Path) -> bool {
    let (Ok(from), Ok(to)) = (fs::metadata(from), fs::metadata(to)) else { return false };
    let younger = matches!((from.modified(), to.modified()), (Ok(a), Ok(b)) if a <= b);
    from.len() == to.len() && younger
}
