//! What the guest sees of the build, at /mnt/stage: programs, and what `systemd/install.sh` needs.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{cargo, examples, packages, paths};

/// Directories of the repository that go in as they are.
const TREES: &[&str] = &["systemd", "daemon/dbus", "tests/python", "proto"];

/// Where it lies on the host.
pub fn dir() -> Result<PathBuf> {
    Ok(paths::vm()?.join("stage"))
}

/// What is put there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// A fresh build.
    Build,
    /// The same, but no tool is built for it: what needs one that is not there is left out.
    BuildNoTools,
    /// What an earlier command left there: for when the tree does not build at the moment.
    AsItIs,
    /// Optimised programs, as packages have them, for measurements: the service, and what measures.
    Optimised,
    /// A fresh build, and packages of it, which are installed in the place of the programs.
    Packages,
}

/// Builds what goes into the guest, and puts it in place.
pub fn fill(what: Fill, progress: &Progress) -> Result<()> {
    let bin = dir()?.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let build = || {
        if what == Fill::Optimised {
            for (command, programs) in [
                (cargo::SHIPPED_OPTIMISED, cargo::SHIPPED_PROGRAMS),
                (cargo::BENCH, &[cargo::BENCH_PROGRAM]),
            ] {
                cargo::build(command)?;
                for name in programs {
                    cargo::copy_file(
                        &paths::target()?.join("release").join(name),
                        &bin.join(name),
                    )?;
                }
            }
        } else if what != Fill::AsItIs {
            cargo::build(cargo::SHIPPED)?;
            // Taken before another build, with other features, can replace it.
            for name in cargo::SHIPPED_PROGRAMS {
                cargo::copy_program(name, &bin)?;
            }
            cargo::build(cargo::TESTS)?;
            for name in cargo::TEST_PROGRAMS {
                cargo::copy_program(name, &bin)?;
            }
            cargo::build(cargo::EXAMPLES)?;
            for name in cargo::EXAMPLE_PROGRAMS {
                cargo::copy_program(name, &bin)?;
            }
            cargo::copy_file(&cargo::test_program(cargo::KERNEL_TESTS)?, &bin.join("uapi-kernel"))?;
            if !examples::kms_importer(&bin, what != Fill::BuildNoTools)? {
                println!("without kms-importer: there is no cargo-c");
            }
        }
        cargo::build(cargo::AGENT)?;
        cargo::copy_program("vm-agent", &bin)
    };
    // Without its agent the machine is of no use; but cargo may be busy with another build.
    if what != Fill::AsItIs || !bin.join("vm-agent").exists() {
        progress.step("build what goes into the virtual machine", build)?;
    }
    for tree in TREES {
        let from = paths::root().join(tree);
        if from.is_dir() {
            copy_tree(&from, &dir()?.join(tree))?;
        }
    }
    match what {
        Fill::AsItIs => Ok(()),
        Fill::Packages => packages::stage(progress),
        _ if packages()?.exists() => {
            std::fs::remove_dir_all(packages()?).context("cannot remove packages of another build")
        }
        _ => Ok(()),
    }
}

/// Where packages lie, if there are any: `current`, and `before`, which has a lower version.
pub fn packages() -> Result<PathBuf> {
    Ok(dir()?.join("packages"))
}

/// Copies a folder with all that is in it.
pub fn copy_all(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, &|_| true)
}

/// Without what is compiled.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, &|file| file.extension().is_none_or(|extension| extension != "rs"))
}

fn copy(from: &Path, to: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for (path, is_dir) in entries(from)? {
        let target = to.join(path.file_name().context("an entry without a name")?);
        if is_dir {
            copy(&path, &target, is_wanted)?;
        } else if is_wanted(&path) {
            cargo::copy_file(&path, &target)?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let list = || -> std::io::Result<Vec<(PathBuf, bool)>> {
        let mut list = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            list.push((entry.path(), entry.file_type()?.is_dir()));
        }
        list.sort();
        Ok(list)
    };
    list().with_context(|| format!("cannot list {}", dir.display()))
}

/// Tells one state of what gets installed from another, without reading it all. `None` if there is
/// nothing that could be installed.
pub fn installable() -> Result<Option<String>> {
    let stage = dir()?;
    let programs = cargo::SHIPPED_PROGRAMS.iter().map(|name| stage.join("bin").join(name));
    let mut files: Vec<PathBuf> = programs.chain([stage.join("systemd/install.sh")]).collect();
    if !files.iter().all(|file| file.exists()) {
        return Ok(None);
    }
    for tree in ["systemd", "daemon/dbus"].map(|tree| stage.join(tree)) {
        if tree.is_dir() {
            files.extend(entries(&tree)?.into_iter().map(|(path, _)| path));
        }
    }
    let mut state = String::new();
    for file in files {
        describe(&file, &mut state)?;
    }
    Ok(Some(state))
}

/// A line for a file, or for each in a folder, which is another one when the file is.
pub fn describe(file: &Path, to: &mut String) -> Result<()> {
    let metadata = fs::metadata(file).with_context(|| format!("no {}", file.display()))?;
    if metadata.is_dir() {
        return entries(file)?.iter().try_for_each(|(path, _)| describe(path, to));
    }
    writeln!(to, "{} {} {:?}", file.display(), metadata.len(), metadata.modified()?)?;
    Ok(())
}
