//! What must be installed, and how it gets there: Debian and Ubuntu packages.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A package, and what it is for.
pub type Need = (&'static str, &'static str);

/// To build everything, and to run the demonstration.
pub const DEMO: &[Need] = &[
    ("libudev-dev", "the service finds devices through libudev"),
    ("pkg-config", "finds libudev for the build"),
    ("dbus", "the service is on a D-Bus, private in tests"),
];

/// For the virtual machine.
pub const VM: &[Need] = &[
    ("libudev-dev", "the service finds devices through libudev"),
    ("pkg-config", "finds libudev for the build"),
    ("qemu-system-x86", "runs the virtual machine"),
    ("mmdebstrap", "builds its image from Debian's packages"),
    ("debian-archive-keyring", "checks their signatures"),
    ("gpg", "finds the key that they are signed with"),
    ("e2fsprogs", "makes its file system"),
    ("libdrm-dev", "an example in C shows buffers with it"),
    ("libssl-dev", "cargo-c, which builds the C library, links it"),
];

/// For the other tests.
pub const TEST: &[Need] = &[
    ("libudev-dev", "the service finds devices through libudev"),
    ("pkg-config", "finds libudev for the build"),
    ("dbus", "the service is on a D-Bus, private in tests"),
    ("umockdev", "shows the service the device trees of other machines"),
    ("python3", "a second client of the protocol is written in it"),
    ("strace", "counts the wake-ups of an idle service"),
    ("libssl-dev", "cargo-c, which builds the C library, links it"),
    ("g++", "the C library's header is for C++ too"),
    ("valgrind", "watches the memory of programs that use the C library"),
];

/// To make packages, and to have them looked at.
pub const PACKAGES: &[Need] = &[
    ("libudev-dev", "the service finds devices through libudev"),
    ("pkg-config", "finds libudev for the build"),
    ("libssl-dev", "cargo-c, which builds the C library, links it"),
    ("dpkg-dev", "makes Debian packages"),
    ("debhelper", "knows what is in them"),
    ("lintian", "looks at them"),
    ("rpm", "reads the recipe for RPM packages"),
    ("rpmlint", "looks at it"),
    ("makepkg", "reads the recipe for Arch Linux"),
    ("pacman-package-manager", "makepkg asks where it is, and fails if it is nowhere"),
    ("shellcheck", "looks at the scripts that packages run"),
    ("mandoc", "looks at the manual's pages"),
    ("xz-utils", "compresses the source"),
];

/// For the measurements.
pub const BENCH: &[Need] = &[
    ("libudev-dev", "the service finds devices through libudev"),
    ("pkg-config", "finds libraries for the build"),
    ("dbus", "a share is measured beside the same over D-Bus"),
    ("dbus-broker", "the same, by the other implementation"),
    ("gcc", "that is a program in C"),
    ("libsystemd-dev", "it uses sd-bus"),
    ("pipewire", "a share is measured beside a buffer that PipeWire hands over"),
    ("libpipewire-0.3-dev", "that is a program in C, too"),
    ("lsof", "what looks for holders is measured beside it"),
];

/// What is done about a missing package.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is installed.
    Install,
    /// It is named, and nothing else happens.
    Report,
}

impl Missing {
    /// What `--no-install` means.
    pub fn from_flag(no_install: bool) -> Self {
        if no_install { Self::Report } else { Self::Install }
    }
}

/// Makes sure that the packages are there.
pub fn ensure(needs: &[Need], missing: Missing) -> Result<()> {
    let mut absent: Vec<Need> = Vec::new();
    for need in needs {
        if !installed(need.0)? && !absent.contains(need) {
            absent.push(*need);
        }
    }
    // Only who is not root has need of it: it maps user ids, so that mmdebstrap needs no root.
    let vm = needs.iter().any(|(package, _)| *package == "mmdebstrap");
    if vm && !root() && !installed("uidmap")? {
        absent.push(("uidmap", "lets mmdebstrap work without root"));
    }
    if absent.is_empty() {
        return Ok(());
    }
    eprintln!("Missing packages:");
    for (package, purpose) in &absent {
        eprintln!("  {package:24} {purpose}");
    }
    let names: Vec<&str> = absent.iter().map(|(package, _)| *package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if missing == Missing::Report {
        bail!("packages are missing; install them with: {by_hand}");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("no apt-get here: install what these packages contain in your distribution's way");
    }
    let how = if root() { "apt-get" } else { "sudo apt-get" };
    eprintln!("Installing them with {how}.");
    install(&names).with_context(|| format!("cannot install them; by hand: {by_hand}"))
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn installed(package: &str) -> Result<bool> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .stdin(Stdio::null())
        .output()
        .context("cannot ask dpkg-query; this set-up knows Debian and Ubuntu only")?;
    Ok(output.status.success() && output.stdout == b"installed")
}

/// The package lists may be missing or old: they are fetched if the first try fails.
fn install(names: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(names);
    if apt(&arguments)? {
        return Ok(());
    }
    apt(&["update"])?;
    // A mirror can fail for a moment.
    for pause in [5, 30] {
        if apt(&arguments)? {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(pause));
    }
    bail!("apt-get failed")
}

fn apt(arguments: &[&str]) -> Result<bool> {
    let mut words = Vec::new();
    if !root() {
        words.push("sudo");
    }
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    // Another apt-get may be at work: wait for its lock.
    words.extend(["-o", "DPkg::Lock::Timeout=600"]);
    words.extend(arguments);
    let status = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        // Standard output is for results.
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot start {}", words[0]))?;
    Ok(status.success())
}
