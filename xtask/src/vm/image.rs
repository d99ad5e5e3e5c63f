//! The image: Debian's kernel, an initrd, and a root file system, kept in the user's cache under
//! the hash of its recipe.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;

use super::recipe;
use crate::paths;
use crate::progress::Progress;

/// A complete image.
pub struct Image {
    /// Its directory.
    pub dir: PathBuf,
    /// Another root file system, with compositors: the machine's second disk. Never written to either.
    pub desktop: PathBuf,
}

impl Image {
    /// The distribution's kernel, unpacked.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// Finds the root file system and switches to it.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// The root file system. Never written to after the build.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }
}

/// The images of this recipe, if they are in the cache.
pub fn cached() -> Result<Option<Image>> {
    let machine = place("vm", &recipe::hash())?;
    let desktop = place("desktop", &recipe::desktop_hash())?;
    let there = machine.is_dir() && desktop.is_dir();
    Ok(there.then_some(Image { dir: machine, desktop: desktop.join("root.ext4") }))
}

fn place(name: &str, hash: &str) -> Result<PathBuf> {
    Ok(paths::cache()?.join(format!("{name}-{hash}")))
}

/// The images of this recipe, built if need be. Of two builders at once, one waits.
pub fn ensure(progress: &Progress) -> Result<Image> {
    if let Some(image) = cached()? {
        return Ok(image);
    }
    let cache = paths::cache()?;
    let lock_path = cache.join("build.lock");
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot create {}", lock_path.display()))?;
    let _lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((lock, _)) => {
            progress.say("another build of the image is under way; waiting for it");
            Flock::lock(lock, FlockArg::LockExclusive)
                .map_err(|(_, error)| anyhow!("cannot lock {}: {error}", lock_path.display()))?
        }
    };
    let what = "build the virtual machine's image (two to three minutes)";
    put(&place("vm", &recipe::hash())?, what, progress, build)?;
    let what = "build the image of the desktop (a minute)";
    put(&place("desktop", &recipe::desktop_hash())?, what, progress, desktop)?;
    cached()?.context("the images were built, and are not there")
}

/// Builds what is not there yet, beside its place.
fn put(
    place: &Path,
    what: &str,
    progress: &Progress,
    build: fn(&Path, &Progress) -> Result<()>,
) -> Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let unfinished = place.with_file_name("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).context("cannot clear an unfinished build")?;
    }
    progress.step(what, || build(&unfinished, progress))?;
    fs::rename(&unfinished, place).context("cannot put the image in its place")
}

/// Kernel and packages at the same time: one waits for the network while the other unpacks. The
/// modules go from one to the other through a FIFO, at which the file system's build waits.
fn build(dir: &Path, progress: &Progress) -> Result<()> {
    let scratch = dir.join("scratch");
    write_recipe(&scratch)?;
    let fifo = scratch.join("modules.fifo");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).context("cannot make a FIFO")?;
    let packages_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let packages = scope.spawn(|| -> Result<File> {
            let result = root(&scratch, &fifo, progress);
            packages_done.store(true, Ordering::SeqCst);
            // Should nobody have read the FIFO, this lets its writer's open return.
            let release = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo);
            result.and(release.context("cannot open the FIFO"))
        });
        let kernel = progress.step("image: kernel and modules", || kernel(&scratch, progress));
        let mut feed =
            OpenOptions::new().write(true).open(&fifo).context("cannot open the FIFO")?;
        let fed = if kernel.is_ok() && !packages_done.load(Ordering::SeqCst) {
            File::open(scratch.join("modules.tar"))
                .and_then(|mut modules| std::io::copy(&mut modules, &mut feed))
                .map(drop)
        } else {
            Ok(())
        };
        drop(feed);
        let packages = packages.join().map_err(|_| anyhow!("the package thread panicked"))?;
        kernel.and(packages.map(drop)).and(fed.context("cannot hand the modules over"))
    })?;
    for name in ["kernel", "initrd", "root.ext4", "version"] {
        fs::rename(scratch.join(name), dir.join(name))
            .with_context(|| format!("the build made no {name}"))?;
    }
    dig_holes(&dir.join("root.ext4"), progress);
    fs::remove_dir_all(&scratch).context("cannot remove the build's scratch directory")
}

/// Most of a file system is empty, and came over a pipe.
fn dig_holes(image: &Path, progress: &Progress) {
    let holes = Command::new("fallocate").arg("--dig-holes").arg(image).status();
    if !holes.is_ok_and(|status| status.success()) {
        progress.say("fallocate could not dig holes: the image takes all of its size on disk");
    }
}

/// A root file system of another release, for programs that are run in it.
fn desktop(dir: &Path, progress: &Progress) -> Result<()> {
    fs::create_dir_all(dir).context("cannot create the build's directory")?;
    let mut command = mmdebstrap("essential", recipe::DESKTOP_LIST);
    // A release that is not out yet may have stood still for a while.
    command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    leave_out(&mut command);
    for path in recipe::DESKTOP_LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(format!("--customize-hook={}", recipe::DESKTOP_CLEAN));
    let settings = "LABEL=desktop SIZE=1G INODES=60000";
    file_system(&mut command, settings, &dir.join("root.ext4"));
    command.arg(recipe::DESKTOP_SUITE);
    run(&mut command, &dir.join("root.log"), progress)?;
    dig_holes(&dir.join("root.ext4"), progress);
    Ok(())
}

fn leave_out(command: &mut Command) {
    for path in recipe::LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
}

/// Makes the file system of what is installed by then.
fn file_system(command: &mut Command, settings: &str, to: &Path) {
    command.arg(format!("--customize-hook={settings}\n{}", recipe::MKFS_SH));
    command.arg(format!("--customize-hook=download /root.ext4 {}", quoted(to)));
}

fn write_recipe(scratch: &Path) -> Result<()> {
    let overlay = scratch.join("recipe/files");
    let scripts = [
        ("build/modules.sh", recipe::MODULES_SH),
        ("build/initrd-init", recipe::INITRD_INIT),
        ("build/modules.list", recipe::MODULES_LIST),
        ("recipe/root.sh", recipe::ROOT_SH),
    ];
    let scripts = scripts.map(|(path, text)| (scratch.join(path), text));
    let files = recipe::FILES.iter().map(|(path, text)| (overlay.join(path), *text));
    for (path, text) in scripts.into_iter().chain(files) {
        let parent = path.parent().context("a file without a directory")?;
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Kernel, initrd and modules.tar, from packages that are extracted, never installed.
fn kernel(scratch: &Path, progress: &Progress) -> Result<()> {
    let mut command = mmdebstrap("extract", recipe::BUILDER_LIST);
    command.arg("--setup-hook=mkdir -p \"$1/proc\" \"$1/tmp\"");
    command.arg(format!("--extract-hook=copy-in {} /", quoted(&scratch.join("build"))));
    command.arg("--extract-hook=chroot \"$1\" sh /build/modules.sh");
    for name in ["kernel", "initrd", "modules.tar", "version"] {
        command.arg(format!("--extract-hook=download /out/{name} {}", quoted(&scratch.join(name))));
    }
    command.arg(recipe::SUITE);
    run(&mut command, &scratch.join("kernel.log"), progress)
}

/// The root file system; waits, with its packages ready, for the modules.
fn root(scratch: &Path, modules: &Path, progress: &Progress) -> Result<()> {
    let mut command = mmdebstrap("essential", recipe::PACKAGES_LIST);
    leave_out(&mut command);
    command.arg(format!("--customize-hook=copy-in {} /", quoted(&scratch.join("recipe"))));
    command.arg("--customize-hook=chroot \"$1\" sh /recipe/root.sh");
    command.arg(format!("--customize-hook=tar-in {} /", quoted(modules)));
    let settings = "LABEL=dmashare-vm SIZE=768M INODES=40000";
    file_system(&mut command, settings, &scratch.join("root.ext4"));
    command.arg(recipe::SUITE);
    progress.step("image: packages and file system", || {
        run(&mut command, &scratch.join("root.log"), progress)
    })
}

fn mmdebstrap(variant: &str, packages: &str) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.arg(format!("--variant={variant}")).arg("--format=null");
    command.arg(format!("--include={}", recipe::packages(packages)));
    // A gigabyte for some seconds: /tmp may be in memory, and too small.
    if std::env::var_os("TMPDIR").is_none() {
        command.env("TMPDIR", "/var/tmp");
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// For mmdebstrap's own hooks, which split their arguments as a shell does.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

/// Runs a part of the build. Its output goes to a log; lines marked `step:` are shown, and after a
/// failure the log's end.
fn run(command: &mut Command, log: &Path, progress: &Progress) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start mmdebstrap; is it installed?")?;
    // The command holds the pipe's writing ends, and would keep it open.
    *command = Command::new("true");

    let mut file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut tail = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(file, "{line}")?;
        if let Some(step) = line.strip_prefix("step: ") {
            progress.say(&format!("       image: {step}"));
        }
        if tail.len() == 25 {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait().context("mmdebstrap")?;
    if !status.success() {
        let tail = tail.into_iter().collect::<Vec<_>>().join("\n  ");
        bail!("mmdebstrap failed ({status}); the end of {}:\n  {tail}", log.display());
    }
    Ok(())
}
