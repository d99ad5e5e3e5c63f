//! The virtual machine: a real kernel with GPUs that can be pulled.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_frames::{End, Exec, ToHost};

use crate::paths::{self, tail};
use crate::progress::Progress;
use channel::Channel;
pub use shell::print;

mod background;
mod channel;
pub mod commands;
pub mod image;
mod qemu;
mod qmp;
mod recipe;
mod shell;
pub mod stage;

/// Twelve seconds are usual on two idle cores.
const BOOT: Duration = Duration::from_secs(300);

/// QEMU without KVM runs the processors of the guest in threads, and a kernel that patches its code
/// under another processor's feet can stumble over it (seen: an int3 oops on a
/// busy host).
const BOOTS: u32 = 3;

/// How the staged build is installed in the guest.
const PROGRAMS: &str = "/mnt/stage/systemd/install.sh /mnt/stage/bin";
/// The same, where packages of it are staged.
const PACKAGES: &str = "dpkg --install /mnt/stage/packages/current/*.deb";

/// A machine that has booted. Ends with this value.
pub struct Vm {
    channel: Channel,
    /// What of the stage is installed, see [`stage::installable`].
    installed: Option<String>,
    qemu: qemu::Qemu,
}

/// What a command in the guest writes, as it comes: the descriptor, and the bytes.
pub type Sink<'a> = &'a mut dyn FnMut(u8, &[u8]);

impl Vm {
    /// Boots the machine with what is staged. To be called on a thread that lives as long as the
    /// machine is to: it is killed with its thread.
    pub fn boot(share: Option<&Path>, progress: &Progress) -> Result<Self> {
        let image = image::ensure(progress)?;
        let stage = stage::dir()?;
        let artefacts = paths::artefacts()?;
        let share = share.unwrap_or(&artefacts);
        let setup = qemu::Setup { image: &image, stage: &stage, share };
        let mut attempt = 1;
        let mut vm = loop {
            match progress.step("boot the virtual machine", || Self::start(&setup)) {
                Ok(vm) => break vm,
                Err(error) if attempt < BOOTS && lost_to_emulation()? => {
                    progress.say(&format!("the kernel panicked at boot ({error:#}); once more"));
                    attempt += 1;
                }
                Err(error) => return Err(error.context(boot_failure())),
            }
        };
        vm.install()?;
        Ok(vm)
    }

    fn start(setup: &qemu::Setup<'_>) -> Result<Self> {
        let start = Instant::now();
        let qemu = qemu::start(setup)?;
        let qmp = qmp::Qmp::new(qemu.qmp.try_clone()?)?;
        let (channel, is_up) = Channel::new(qemu.agent.try_clone()?, qmp)?;
        channel::wait_up(&is_up, BOOT.saturating_sub(start.elapsed()))?;
        Ok(Self { channel, installed: None, qemu })
    }

    /// Installs the staged build in the guest, by packages or in the way that they would, if it is another
    /// than the one that is installed.
    pub fn install(&mut self) -> Result<()> {
        let Some(state) = stage::installable()? else { return Ok(()) };
        let how = if stage::packages()?.exists() { PACKAGES } else { PROGRAMS };
        let wanted = Some(format!("{state}{how}"));
        if wanted == self.installed {
            return Ok(());
        }
        let mut output = Vec::new();
        let argv = ["/bin/sh", "-c", how];
        let end = self.run(command(&argv, 300), &mut |_, data| output.extend_from_slice(data))?;
        if end != End::Code(0) {
            let output = String::from_utf8_lossy(&output);
            bail!("{how} failed in the guest ({end:?}):\n{output}");
        }
        self.installed = wanted;
        Ok(())
    }

    /// Runs a command without input to its end.
    pub fn run(&self, exec: Exec, sink: Sink<'_>) -> Result<End> {
        self.channel.run(exec, sink).with_context(|| match qemu::console_log() {
            Ok(path) => format!("see its console: {}", path.display()),
            Err(_) => "no console".into(),
        })
    }

    /// The signal by which QEMU itself has ended, of a machine that is gone: by a bug of its own, or by
    /// somebody on this machine. A guest that panics makes it exit.
    pub fn crashed(&mut self) -> Option<i32> {
        self.qemu.crashed()
    }

    /// Runs a command with this process's own input.
    pub fn run_interactive(&self, exec: Exec) -> Result<End> {
        let running = self.channel.start(exec)?;
        let control = running.control();
        shell::forward_input(move |data| control.input(data));
        loop {
            match running.frames.recv().context("the virtual machine ended")? {
                ToHost::Out { fd, data, .. } => shell::print(fd, &data),
                ToHost::Exit { end, .. } => return Ok(end),
                _ => {}
            }
        }
    }

    /// Brings back a card that was removed through sysfs.
    pub fn rescan(&self) -> Result<()> {
        let script = "echo 1 > /sys/bus/pci/rescan && udevadm settle --timeout=60";
        match self.run(command(&["/bin/sh", "-c", script], 120), &mut |_, _| {})? {
            End::Code(0) => Ok(()),
            end => bail!("the guest's PCI rescan failed: {end:?}"),
        }
    }

    /// Keeps the guest's journal for whoever looks into a failure, and says where the logs are.
    pub fn save_logs(&self) -> Result<String> {
        let mut journal = Vec::new();
        let argv = ["journalctl", "--boot", "--no-pager", "--output=short-monotonic"];
        self.run(command(&argv, 120), &mut |_, data| journal.extend_from_slice(data))?;
        let path = paths::vm()?.join("journal.log");
        std::fs::write(&path, journal)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(format!("{}, {}", path.display(), qemu::console_log()?.display()))
    }
}

/// The scenarios, run in the guest; all if none is named.
pub fn scenarios(names: &[String]) -> Exec {
    // Each scenario has its own bounds; this one is for a runner that hangs.
    let mut exec = command(&["dmashare-scenarios", "run", "--machine", "vm"], 3600);
    exec.argv.extend_from_slice(names);
    exec
}

/// Whether a boot ended in a panic of the kernel, and not in something that will happen again. Its
/// console is kept under another name.
fn lost_to_emulation() -> Result<bool> {
    let console = qemu::console_log()?;
    let text = std::fs::read(&console).context("no console")?;
    let panicked = String::from_utf8_lossy(&text).contains("Oops: int3");
    if panicked {
        let kept = console.with_file_name("console-panic.log");
        std::fs::rename(&console, kept).context("cannot keep the console")?;
    }
    Ok(panicked)
}

fn boot_failure() -> String {
    let console = qemu::console_log().map(|path| tail(&path, 25)).unwrap_or_default();
    let qemu = paths::vm().map(|dir| tail(&dir.join("qemu.log"), 10)).unwrap_or_default();
    format!("the virtual machine did not boot; QEMU said:\n{qemu}\nits console:\n{console}\nwhy")
}

/// A plain command with a bound.
pub fn command(argv: &[&str], timeout_s: u64) -> Exec {
    Exec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        timeout_s: Some(timeout_s),
        ..Exec::default()
    }
}
