//! Unmodified compositors in the virtual machine, on another root file system (xtask's image of the
//! desktop): started, waited for, looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod screenshot;
mod watched;

pub use screenshot::Screenshot;
pub use watched::Watched;

use crate::{BOUND, Card, Process};

/// Where the other root is.
const ROOT: &str = "/run/desktop";
/// XDG_RUNTIME_DIR of compositors and clients.
const RUNTIME: &str = "/run/dmashare-desktop";
/// Compositors' socket in it.
const DISPLAY: &str = "wayland-1";
const SEAT: &str = "/run/seatd.sock";
/// What is to be looked at later goes there, if the host shares it.
const ARTEFACTS: &str = "/mnt/share";

/// Which compositor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// sway, with its GLES renderer on llvmpipe.
    Sway,
    /// weston, with its GL renderer on llvmpipe.
    Weston,
}

impl Kind {
    /// The program's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sway => "sway",
            Self::Weston => "weston",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Sway => "/usr/bin/sway",
            Self::Weston => "/usr/bin/weston",
        }
    }
}

/// A compositor that runs. Stopped when dropped.
pub struct Desktop {
    kind: Kind,
    compositor: Child,
    seatd: Child,
}

impl Desktop {
    /// Starts a compositor on a card, and waits until clients can connect.
    ///
    /// # Errors
    /// The other root is not there; the compositor does not come up: its log is in the error.
    pub fn start(kind: Kind, card: &Card) -> Result<Self> {
        Self::start_also_on(kind, card, None)
    }

    /// The same, and it opens another card too, as for further screens.
    ///
    /// # Errors
    /// As there.
    pub fn start_also_on(kind: Kind, card: &Card, also: Option<&Card>) -> Result<Self> {
        prepare()?;
        for old in [SEAT, RUNTIME] {
            let path = Path::new(old);
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else if path.exists() {
                fs::remove_file(path)?;
            }
        }
        fs::create_dir(RUNTIME)?;
        fs::set_permissions(RUNTIME, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let mut seatd = spawn(command("/usr/sbin/seatd").args(["-l", "info"]), "seatd")?;
        appears(Path::new(SEAT), &mut seatd, "seatd")?;
        let nodes: Vec<&Path> =
            [Some(card), also].into_iter().flatten().map(Card::primary).collect();
        let names: Vec<String> = nodes
            .iter()
            .map(|node| node.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        let paths: Vec<String> = nodes.iter().map(|node| node.display().to_string()).collect();
        let mut start = command(kind.program());
        match kind {
            Kind::Sway => {
                let config = Path::new(RUNTIME).join("sway.conf");
                fs::write(&config, "default_border none\nxwayland disable\n")?;
                start
                    .arg("--config")
                    .arg(&config)
                    .env("WLR_RENDERER", "gles2")
                    .env("WLR_RENDERER_ALLOW_SOFTWARE", "1")
                    .env("WLR_LIBINPUT_NO_DEVICES", "1");
                // With all cards that there are it finds them by itself, also those that come.
                if also.is_none() {
                    start.env("WLR_DRM_DEVICES", &paths[0]);
                }
            }
            Kind::Weston => {
                start
                    .args(["--backend=drm", "--renderer=gl", "--shell=kiosk", "--idle-time=0"])
                    // So that its own tool may take pictures.
                    .args(["--debug", "--continue-without-input"])
                    .arg(format!("--socket={DISPLAY}"))
                    .arg(format!("--drm-device={}", names[0]));
                if let Some(also) = names.get(1) {
                    start.arg(format!("--additional-devices={also}"));
                }
            }
        }
        let mut compositor = spawn(&mut start, kind.name())?;
        appears(&Path::new(RUNTIME).join(DISPLAY), &mut compositor, kind.name())?;
        Ok(Self { kind, compositor, seatd })
    }

    /// The compositor.
    #[must_use]
    pub fn process(&self) -> Process {
        Process(self.compositor.id().cast_signed())
    }

    /// Starts a client of the build, whose lines are to be waited for.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Result<Watched> {
        let mut command = Command::new(Path::new("/mnt/stage/bin").join(program));
        command.args(arguments).env("XDG_RUNTIME_DIR", RUNTIME).env("WAYLAND_DISPLAY", DISPLAY);
        Watched::start(&mut command)
    }

    /// What is on its screen; kept as an artefact of this name.
    ///
    /// # Errors
    /// No picture could be taken.
    pub fn screenshot(&self, name: &str) -> Result<Screenshot> {
        let folder = Path::new(RUNTIME).join("shots");
        fs::create_dir_all(&folder)?;
        let path = folder.join("shot.png");
        match self.kind {
            Kind::Sway => run(command("/usr/bin/grim").args(["-t", "png"]).arg(&path))?,
            Kind::Weston => {
                // It names the file by the time, and puts it where it is.
                let there = format!("cd {} && exec weston-screenshooter", folder.display());
                run(command("/bin/sh").args(["-c", &there]))?;
                let taken = fs::read_dir(&folder)?.next().context("weston took no picture")??;
                fs::rename(taken.path(), &path)?;
            }
        }
        let bytes = fs::read(&path)?;
        fs::remove_file(&path)?;
        if Path::new(ARTEFACTS).is_dir() {
            fs::write(Path::new(ARTEFACTS).join(format!("{name}.png")), &bytes)?;
        }
        Screenshot::decode(&bytes)
    }

    /// The end of what it has written, for the message of a failure.
    #[must_use]
    pub fn log(&self) -> String {
        log(self.kind.name())
    }

    /// Checks that the compositor has not ended.
    ///
    /// # Errors
    /// It has.
    pub fn is_alive(&mut self) -> Result<()> {
        match self.compositor.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} has ended ({status}): {}", self.kind.name(), log(self.kind.name()))
            }
        }
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        for child in [&mut self.compositor, &mut self.seatd] {
            let pid = Pid::from_raw(child.id().cast_signed());
            // One that has ended is not waited for before this, so its pid is still its own.
            drop(kill(pid, Signal::SIGTERM).map(|()| child.wait()));
        }
    }
}

/// Starts a program of the build on the other root, where the drivers of graphics are; no compositor.
///
/// # Errors
/// The other root is not there; it cannot be started.
pub fn program(program: &str, arguments: &[&str]) -> Result<Watched> {
    prepare()?;
    let path = Path::new("/mnt/stage/bin").join(program);
    Watched::start(command(&path.to_string_lossy()).args(arguments).env("HOME", "/tmp"))
}

/// Mounts the other root, with this one's devices and sockets in it.
fn prepare() -> Result<()> {
    let root = Path::new(ROOT);
    if root.join("usr/bin").exists() {
        return Ok(());
    }
    fs::create_dir_all(root)?;
    let none: Option<&str> = None;
    mount(Some("/dev/vdb"), root, Some("ext4"), MsFlags::MS_RDONLY, none)
        .context("the disk with the desktop (xtask's image)")?;
    for part in ["dev", "proc", "sys", "run", "tmp", "mnt/stage"] {
        let (from, to) = (Path::new("/").join(part), root.join(part));
        mount(Some(&from), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .with_context(|| format!("bind {}", to.display()))?;
    }
    Ok(())
}

/// A program of the other root.
fn command(program: &str) -> Command {
    let mut command = Command::new("chroot");
    command.arg(ROOT).arg(program).stdin(Stdio::null());
    command
        .env("XDG_RUNTIME_DIR", RUNTIME)
        .env("WAYLAND_DISPLAY", DISPLAY)
        .env("HOME", RUNTIME)
        .env("LIBSEAT_BACKEND", "seatd")
        // No virtual terminals here.
        .env("SEATD_VTBOUND", "0")
        // The emulated processor's vectors of 256 bits: llvmpipe then reads one texel for all.
        .env("LP_NATIVE_VECTOR_WIDTH", "128");
    command
}

fn log_path(name: &str) -> PathBuf {
    Path::new("/tmp").join(format!("dmashare-{name}.log"))
}

/// The end of a program's log.
fn log(name: &str) -> String {
    let text = fs::read(log_path(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn spawn(command: &mut Command, name: &str) -> Result<Child> {
    let log = fs::File::create(log_path(name))?;
    command.env_remove("WAYLAND_DISPLAY").stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("start {name}"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("start a program of the desktop")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?} failed ({}): {said}", command.get_args(), output.status);
    Ok(())
}

/// Waits for a socket that a program makes.
fn appears(path: &Path, child: &mut Child, name: &str) -> Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use std::os::fd::AsFd;

    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(path.parent().context("a path")?, AddWatchFlags::IN_CREATE)?;
    let pidfd = dmashare_uapi::pidfd::open(child.id().cast_signed())?;
    let end = Instant::now() + BOUND;
    while !path.exists() {
        if let Some(status) = child.try_wait()? {
            bail!("{name} has ended ({status}): {}", log(name));
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "{name} made no {} in {BOUND:?}: {}", path.display(), log(name));
        let mut fds = [inotify.as_fd(), pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::try_from(left)?)?;
        // What is there is only a reason to look.
        inotify.read_events().ok();
    }
    Ok(())
}
