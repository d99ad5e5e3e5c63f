//! What a release consists of: the source with all that it is built from, Debian packages of it, and the
//! recipes by which other distributions build it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::counts::Counts;
use crate::progress::Progress;
use crate::vm::stage;
use crate::{cargo, packages, paths, setup};

/// Scripts that run on others' machines, as root most of them.
const SCRIPTS: &[&str] = &[
    "systemd/install.sh",
    "systemd/kernel-access",
    "client-lib/c/cc.sh",
    "packaging/debian/dmashared.postinst",
    "packaging/debian/dmashared.prerm",
    "packaging/debian/dmashared.postrm",
];
const SPEC: &str = "packaging/rpm/dmashare.spec";
const PKGBUILD: &str = "packaging/arch/PKGBUILD";
/// By convention, of users and of groups.
const NOBODY: u32 = 65534;

/// What `dist` can be told.
#[derive(Args)]
pub struct DistArgs {
    /// Where it goes, in place of target/dist
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the source
    #[arg(long)]
    source: bool,
    /// Only say what is missing on this machine, and install nothing
    #[arg(long)]
    no_install: bool,
}

/// Makes it all; the result is this program's exit status.
pub fn run(args: &DistArgs) -> Result<i32> {
    setup::ensure(setup::PACKAGES, setup::Missing::from_flag(args.no_install))?;
    let progress = Progress::Shown;
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => paths::target()?.join("dist"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut made = vec![source(&out, &progress)?];
    let mut good = true;
    if !args.source {
        let work = paths::target()?.join("packages/release");
        let tree = unpack(&made[0], &work)?;
        stage::copy_all(&tree.join(packages::RULES), &tree.join("debian"))?;
        let debs = progress
            .step("build Debian packages of it, offline (five to ten minutes)", || {
                packages::build(&tree, None)
            })?;
        good = progress.step("look at them with lintian", || packages::lint(&debs))?;
        for file in debs.into_iter().chain([SPEC, PKGBUILD].map(|file| paths::root().join(file))) {
            let to = out.join(file.file_name().context("a file without a name")?);
            cargo::copy_file(&file, &to)?;
            made.push(to);
        }
    }
    let mut sums = String::new();
    for file in &made {
        let name = file.file_name().context("a file without a name")?.to_string_lossy();
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        sums += &format!("{sum}  {name}\n");
        println!("{:>10}  {}", bytes.len(), file.display());
    }
    fs::write(out.join("SHA256SUMS"), sums).context("cannot write SHA256SUMS")?;
    Ok(i32::from(!good))
}

fn name() -> String {
    format!("dmashare-{}", env!("CARGO_PKG_VERSION"))
}

/// The last commit with all crates: it builds without a network.
fn source(out: &Path, progress: &Progress) -> Result<PathBuf> {
    let git =
        |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(paths::root()));
    if !git(&["status", "--porcelain"])?.is_empty() {
        progress.say("what is not committed is not in it");
    }
    let time = git(&["log", "-1", "--format=%ct"])?;
    let work = paths::target()?.join("packages/source");
    if work.exists() {
        fs::remove_dir_all(&work).context("cannot clear the last source")?;
    }
    let tree = work.join(name());
    fs::create_dir_all(&tree).context("cannot create the source's folder")?;
    let archive = work.join("head.tar");
    git(&["archive", "--format=tar", "--output", &archive.to_string_lossy(), "HEAD"])?;
    output(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&tree))?;
    progress.step("gather the crates", || {
        let config = output(
            cargo::cargo(&["vendor", "--locked", "--quiet", "vendor"])
                .current_dir(&tree)
                .stderr(Stdio::inherit()),
        )?;
        let path = tree.join(".cargo/config.toml");
        let own = fs::read_to_string(&path).context("no .cargo/config.toml")?;
        fs::write(&path, format!("{own}\n{config}\n")).context("cannot write cargo's settings")
    })?;
    let file = out.join(format!("{}.tar.xz", name()));
    progress.step("compress it", || {
        // The same bytes for the same commit.
        output(
            Command::new("tar")
                .args([
                    "--sort=name",
                    "--owner=0",
                    "--group=0",
                    "--numeric-owner",
                    "--format=posix",
                ])
                .args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"])
                .arg(format!("--mtime=@{}", time.trim()))
                .args(["--use-compress-program", "xz --threads=0", "-C"])
                .arg(&work)
                .arg("-cf")
                .arg(&file)
                .arg(name()),
        )
    })?;
    Ok(file)
}

fn unpack(tarball: &Path, work: &Path) -> Result<PathBuf> {
    if work.exists() {
        fs::remove_dir_all(work).with_context(|| format!("cannot clear {}", work.display()))?;
    }
    fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
    output(Command::new("tar").arg("-xf").arg(tarball).arg("-C").arg(work))?;
    Ok(work.join(name()))
}

/// The tier of the tests: what of it needs no release build.
pub fn check() -> Result<Counts> {
    let progress = Progress::Shown;
    stage::fill(stage::Fill::Packages, &progress)?;
    let mut all = Counts::default();
    let mut count = |what: &str, good: Result<bool>| {
        let good = good.unwrap_or_else(|error| {
            println!("{error:#}");
            false
        });
        println!("{} {what}", if good { "ok" } else { "FAILED" });
        all += Counts::one(good);
    };
    let mut pages = pages()?;
    count("scripts, by shellcheck", runs(Command::new("shellcheck").arg("-x").args(SCRIPTS)));
    pages.sort();
    count(
        "the manual's pages, by mandoc",
        runs(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(&pages)),
    );
    count("Debian packages, by lintian", current().and_then(|debs| packages::lint(&debs)));
    count("the RPM recipe, by rpmspec", rpm());
    let known = ["--strict", "--rpmlintrc", "packaging/rpm/dmashare.rpmlintrc"];
    count("the same, by rpmlint", runs(Command::new("rpmlint").args(known).arg(SPEC)));
    count("the recipe for Arch Linux, by makepkg", arch());
    Ok(all)
}

fn current() -> Result<Vec<PathBuf>> {
    let folder = stage::packages()?.join("current");
    let mut debs = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        debs.push(entry?.path());
    }
    Ok(debs)
}

/// The service's pages, and those that the tool writes.
fn pages() -> Result<Vec<PathBuf>> {
    let folder = paths::target()?.join("packages/man");
    fs::create_dir_all(&folder).context("cannot create the pages' folder")?;
    let tool = stage::dir()?.join("bin/dmasharectl");
    output(Command::new(tool).arg("man").arg(&folder))?;
    let systemd = paths::root().join("systemd");
    let mut pages = vec![systemd.join("dmashared.8"), systemd.join("dmashared.toml.5")];
    for entry in fs::read_dir(&folder).context("the pages' folder")? {
        pages.push(entry?.path());
    }
    Ok(pages)
}

/// Its version is the tree's, and so is each of its packages'.
fn rpm() -> Result<bool> {
    let query = ["--query", "--queryformat", "%{version}\\n", SPEC];
    let versions = output(Command::new("rpmspec").args(query).current_dir(paths::root()))?;
    Ok(!versions.is_empty() && versions.lines().all(|version| version == env!("CARGO_PKG_VERSION")))
}

/// makepkg reads the recipe as it would to build; never as root, so then as nobody.
fn arch() -> Result<bool> {
    let folder = std::env::temp_dir().join(format!("dmashare-arch-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let read = || {
        fs::copy(paths::root().join(PKGBUILD), folder.join("PKGBUILD"))?;
        let mut command = Command::new("makepkg");
        if nix::unistd::geteuid().is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
            command = Command::new("setpriv");
            let nobody = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
            command.args(nobody).args(["--clear-groups", "makepkg"]);
        }
        output(command.arg("--printsrcinfo").env("HOME", &folder).current_dir(&folder))
    };
    let info = read();
    fs::remove_dir_all(&folder).context("cannot remove the recipe's folder")?;
    let version = format!("pkgver = {}", env!("CARGO_PKG_VERSION"));
    Ok(info?.lines().any(|line| line.trim() == version))
}

fn runs(command: &mut Command) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.current_dir(paths::root()).stdin(Stdio::null()).status();
    Ok(status.with_context(|| format!("cannot start {name}"))?.success())
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
