//! The machine: QEMU without KVM, and the cast of its PCI bus.
//!
//! ```text
//! 0000:00:03.0  virtio-gpu        the card that stays
//! 0000:00:04.0  PCIe root port    the hot-plug port
//! 0000:01:00.0    switch, up      what QMP's device_del pulls: QEMU does not let the card itself go
//! 0000:02:00.0      switch, down
//! 0000:03:00.0        virtio-gpu  the "eGPU"
//! 0000:03:00.1        intel-hda   its sound
//! ```

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vm_frames::PORT;

use super::image::Image;
use crate::paths;

/// The card that is pulled.
pub const EGPU: &str = "0000:03:00.0";
/// The card that stays.
pub const STAY: &str = "0000:00:03.0";

/// How long QEMU may take to end, once its guest's port is closed.
const ENDING: Duration = Duration::from_secs(10);

/// What a machine is started with.
pub struct Setup<'a> {
    /// What it boots.
    pub image: &'a Image,
    /// The build, at /mnt/stage.
    pub stage: &'a Path,
    /// A directory of the user's, at /mnt/share.
    pub share: &'a Path,
}

/// A running QEMU. Ends with its owner, and with this process.
pub struct Qemu {
    child: Child,
    /// QEMU's own control channel.
    pub qmp: UnixStream,
    /// The agent's virtio-serial port.
    pub agent: UnixStream,
}

impl Qemu {
    /// The signal by which it has ended, or is just ending; `None` if it lives, or has ended otherwise.
    pub fn crashed(&mut self) -> Option<i32> {
        // Its end of the control channel is closed when it ends, and not before.
        self.qmp.set_read_timeout(Some(ENDING)).ok()?;
        let mut rest = [0; 4096];
        loop {
            match self.qmp.read(&mut rest) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        self.child.wait().ok()?.signal()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Neither fails but for a child that has been waited for, and only this waits.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The guest's kernel log, kept after the machine has ended.
pub fn console_log() -> Result<PathBuf> {
    Ok(paths::vm()?.join("console.log"))
}

/// Starts the machine. To be called on a thread that lives as long as the machine is to.
pub fn start(setup: &Setup<'_>) -> Result<Qemu> {
    let (qmp, qmp_end) = UnixStream::pair().context("no socket pair")?;
    let (agent, agent_end) = UnixStream::pair().context("no socket pair")?;
    let console = console_log()?;
    fs::write(&console, "").with_context(|| format!("cannot write {}", console.display()))?;
    // Connected sockets instead of paths: nothing to clean up, and nobody else can connect.
    let ends = [OwnedFd::from(qmp_end), OwnedFd::from(agent_end)];
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(arguments(setup, &console, ends[0].as_raw_fd(), ends[1].as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let log = paths::vm()?.join("qemu.log");
    command.stderr(fs::File::create(&log).context("cannot create QEMU's log")?);
    let in_child = move || {
        for end in &ends {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: fcntl and prctl are async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(in_child) };
    let child = command.spawn().context("cannot start qemu-system-x86_64; is it installed?")?;
    // The closure in the command owns the guest's ends; here they must be closed.
    drop(command);
    Ok(Qemu { child, qmp, agent })
}

fn arguments(setup: &Setup<'_>, console: &Path, qmp: i32, agent: i32) -> Vec<String> {
    let accel = std::env::var("DMASHARE_VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".into());
    // A panic (not an oops) ends QEMU at once: nobody waits for a machine that is dead. The clock is
    // left alone: `tsc=reliable` patches the scheduler's clock while both processors run, and under
    // QEMU 7.2 one of them can stumble over the breakpoint that is in its place meanwhile.
    let cmdline = format!(
        "root=/dev/vda console=ttyS0 quiet loglevel=4 mitigations=off panic=-1 net.ifnames=0 lsm=landlock,yama \
         audit=0 8250.nr_uarts=1 systemd.show_status=no dmashare.egpu={EGPU} dmashare.stay={STAY} dmashare.share"
    );
    let mut line: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);

    add("-machine", "q35".into());
    add("-accel", accel);
    // Hot-plug by PCI Express itself, as on a real port, and not by ACPI.
    add("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off".into());
    // Five-level page tables cost emulation a fifth level.
    add("-cpu", "max,la57=off".into());
    add("-smp", "2".into());
    add("-m", "2048".into());
    add("-vga", "none".into());
    add("-net", "none".into());
    add("-display", "none".into());
    add("-name", "dmashare-vm".into());
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        add(flag, String::new());
    }

    // First, for their places: the others take what is free.
    add("-device", "virtio-gpu-pci,id=stay,bus=pcie.0,addr=0x3,xres=1024,yres=768".into());
    add("-device", "pcie-root-port,id=egpu-port,bus=pcie.0,addr=0x4,chassis=1,slot=1".into());
    add("-device", "x3130-upstream,id=egpu-switch,bus=egpu-port".into());
    add(
        "-device",
        "xio3130-downstream,id=egpu-down,bus=egpu-switch,addr=0x0,chassis=2,slot=2".into(),
    );
    // As real cards, with a function for sound beside the GPU.
    add("-device", "intel-hda,id=egpu-audio,bus=egpu-down,addr=0x0.0x1".into());
    add(
        "-device",
        "virtio-gpu-pci,id=egpu,bus=egpu-down,addr=0x0,multifunction=on,xres=1280,yres=800".into(),
    );

    add("-kernel", escaped(&setup.image.kernel()));
    add("-initrd", escaped(&setup.image.initrd()));
    add("-append", cmdline);
    for disk in [&setup.image.root(), &setup.image.desktop] {
        let options = "if=virtio,format=raw,snapshot=on,cache=unsafe";
        add("-drive", format!("file={},{options}", escaped(disk)));
    }
    add("-chardev", format!("file,id=console,path={}", escaped(console)));
    add("-serial", "chardev:console".into());
    add("-chardev", format!("socket,id=qmp,fd={qmp}"));
    add("-mon", "chardev=qmp,mode=control".into());
    add("-chardev", format!("socket,id=agent,fd={agent}"));
    add("-device", "virtio-serial-pci".into());
    add("-device", format!("virtserialport,chardev=agent,name={PORT}"));
    for (tag, path, access) in [("stage", setup.stage, ",readonly=on"), ("share", setup.share, "")]
    {
        let path = escaped(path);
        let options = "security_model=none,multidevs=remap";
        add("-virtfs", format!("local,path={path},mount_tag={tag},{options}{access}"));
    }
    line.retain(|word| !word.is_empty());
    line
}

/// QEMU's options take a comma in a value doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
