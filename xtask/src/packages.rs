//! Debian packages, by the rules in `packaging/debian`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::vm::stage;
use crate::{cargo, cargo_c, paths};

/// What the packages are made of, besides programs and library: the paths are the repository's, and theirs.
const TREES: &[(&str, &str)] = &[
    (RULES, "debian"),
    ("systemd", "systemd"),
    ("daemon/dbus", "daemon/dbus"),
    ("daemon/src/config", "daemon/src/config"),
    ("docs", "docs"),
    ("examples/kms-importer", "examples/kms-importer"),
];
const FILES: &[&str] = &["README.md", "CHANGELOG.md"];

/// Older than any that is to come: what an upgrade is tried from. It has the same programs.
const BEFORE: &str = "~before";

/// What was built before: the programs' folder, and the one that `cargo cinstall` has filled.
pub struct Built<'a> {
    /// For DMASHARE_BIN.
    pub programs: &'a Path,
    /// For DMASHARE_C.
    pub library: &'a Path,
}

/// The rules' own folder, in the repository and in the source.
pub const RULES: &str = "packaging/debian";

/// The newest version of the packages, as the rules have it.
pub fn version() -> Result<String> {
    let path = paths::root().join(RULES).join("changelog");
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    first_version(&text).map(str::to_owned).context("the packages' changelog has no version")
}

fn first_version(changelog: &str) -> Option<&str> {
    changelog.split_once('(')?.1.split_once(')').map(|(version, _)| version)
}

/// Packages for the virtual machine, of what is staged for it: these, and others of an older version.
/// What is made already of the same is left as it is.
pub fn stage(progress: &Progress) -> Result<()> {
    let mut state = stage::installable()?.context("nothing is staged that could be packaged")?;
    for (from, _) in TREES {
        stage::describe(&paths::root().join(from), &mut state)?;
    }
    let to = stage::packages()?;
    let made = to.join("made-of");
    if fs::read_to_string(&made).is_ok_and(|of| of == state) {
        return Ok(());
    }
    if to.exists() {
        fs::remove_dir_all(&to).context("cannot clear the packages")?;
    }
    if !cargo_c::install(true)? {
        bail!("packages need the C library, and there is no cargo-c");
    }
    let (programs, library) = (stage::dir()?.join("bin"), cargo_c::prefix()?);
    let built = Built { programs: &programs, library: &library };
    let version = version()?;
    progress.step("make packages", || {
        for (folder, version) in
            [("before", format!("{version}{BEFORE}")), ("current", version.clone())]
        {
            let work = paths::target()?.join("packages").join(folder);
            let debs = of_tree(&work, &built, &version)?;
            fs::create_dir_all(to.join(folder))?;
            for deb in debs {
                let name = deb.file_name().context("a package without a name")?;
                cargo::copy_file(&deb, &to.join(folder).join(name))?;
            }
        }
        Ok(())
    })?;
    fs::write(&made, state).context("cannot note what the packages are made of")
}

/// Packages of what the repository has and what was built before.
fn of_tree(work: &Path, built: &Built<'_>, version: &str) -> Result<Vec<PathBuf>> {
    if work.exists() {
        fs::remove_dir_all(work).with_context(|| format!("cannot clear {}", work.display()))?;
    }
    let tree = work.join("dmashare");
    for (from, to) in TREES {
        stage::copy_all(&paths::root().join(from), &tree.join(to))?;
    }
    for file in FILES {
        cargo::copy_file(&paths::root().join(file), &tree.join(file))?;
    }
    let changelog = tree.join("debian/changelog");
    let text = fs::read_to_string(&changelog).context("no changelog")?;
    let named = first_version(&text).context("the packages' changelog has no version")?;
    fs::write(&changelog, text.replacen(named, version, 1))
        .context("cannot write the changelog")?;
    build(&tree, Some(built))
}

/// Builds the packages of a tree that has a `debian` folder; they come to lie beside it.
pub fn build(tree: &Path, built: Option<&Built<'_>>) -> Result<Vec<PathBuf>> {
    let work = tree.parent().context("a tree without a folder around it")?;
    let log = work.join("build.log");
    let output =
        fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("dpkg-buildpackage");
    // cargo is rustup's as often as Debian's: it is found, or its lack is told.
    command
        .args(["--build=binary", "--no-sign", "--no-check-builddeps"])
        .current_dir(tree)
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("the log")?)
        .stderr(output);
    if let Some(built) = built {
        command
            .arg("--build-profiles=pkg.dmashare.prebuilt")
            .env("DEB_BUILD_OPTIONS", "noautodbgsym")
            .env("DMASHARE_BIN", built.programs)
            .env("DMASHARE_C", built.library);
    } else {
        command.env("CARGO_TARGET_DIR", paths::target()?.join("dist/build"));
        if let Some(cargo_c) = cargo_c::folder()? {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = [cargo_c].into_iter().chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all).context("PATH")?);
        }
    }
    let status = command.status().context("cannot start dpkg-buildpackage")?;
    if !status.success() {
        let tail = paths::tail(&log, 25);
        bail!("dpkg-buildpackage failed ({status}); the end of {}:\n{tail}", log.display());
    }
    let mut debs = Vec::new();
    for entry in fs::read_dir(work).context("the packages' folder")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    debs.sort();
    Ok(debs)
}

/// Shows what lintian finds; true if there is neither error nor warning.
pub fn lint(debs: &[PathBuf]) -> Result<bool> {
    let status = Command::new("lintian")
        // The first upload to Debian closes a bug that asks for it; these packages are not in Debian.
        .args(["--suppress-tags", "initial-upload-closes-no-bugs"])
        .args(["--fail-on", "error,warning", "--tag-display-limit", "0", "--allow-root"])
        .args(debs)
        .stdin(Stdio::null())
        .status()
        .context("cannot start lintian")?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_the_version_of_what_is_in_them() {
        let version = version().unwrap();
        let (upstream, revision) = version.rsplit_once('-').unwrap();
        assert_eq!(upstream, env!("CARGO_PKG_VERSION"));
        assert!(revision.parse::<u32>().is_ok());
    }

    #[test]
    fn a_changelogs_first_version() {
        assert_eq!(first_version("dmashare (1.2-3) unstable\n\ndmashare (1.1-1)"), Some("1.2-3"));
        assert_eq!(first_version("nothing"), None);
    }
}
