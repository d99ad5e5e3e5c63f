//! A buffer handed over by PipeWire: `pipewire.c`, beside this folder.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use dmashare_tests::BOUND;
use dmashare_tests::process::eventually;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tempfile::TempDir;

use crate::other::Other;

/// Its name among the contestants.
pub const NAME: &str = "PipeWire, by a link between two streams";
const CONFIG: &str = "\
context.properties = { core.daemon = true core.name = pipewire-0 support.dbus = false }
context.spa-libs = { support.* = support/libspa-support }
context.modules = [
  { name = libpipewire-module-protocol-native }
  { name = libpipewire-module-client-node }
  { name = libpipewire-module-link-factory }
  { name = libpipewire-module-access }
]
";

/// A daemon, a source, a sink, and who links them.
pub struct Links {
    linker: UnixStream,
    _all: [Other; 4],
    _folder: TempDir,
}

impl Links {
    /// Starts all of them; or says what is missing.
    pub fn start() -> Result<Result<Self, String>> {
        let program = std::env::current_exe()?.with_file_name("dmashare-bench-pipewire");
        for file in [program.as_path(), Path::new("/usr/bin/pipewire")] {
            if !file.exists() {
                return Ok(Err(format!("{} is not there", file.display())));
            }
        }
        Self::begin(&program).map(Ok)
    }

    fn begin(program: &Path) -> Result<Self> {
        let folder = TempDir::new()?;
        let config = folder.path().join("pipewire.conf");
        fs::write(&config, CONFIG)?;
        let start = |command: &mut Command| {
            // It has nothing to say but that it may not have the priority of real time.
            let command = command.env("PIPEWIRE_RUNTIME_DIR", folder.path());
            Other::start(command.env("PIPEWIRE_DEBUG", "0"))
        };
        let daemon = start(Command::new("pipewire").arg("-c").arg(&config))?;
        let socket = folder.path().join("pipewire-0");
        eventually("PipeWire listens", BOUND, || Ok(UnixStream::connect(&socket).is_ok()))?;
        let stream = |which: &str| -> Result<(Other, UnixStream, u32)> {
            let (mut words, its_words) = UnixStream::pair()?;
            let mut command = Command::new(program);
            command.arg(which).stdin(Stdio::null()).stdout(OwnedFd::from(its_words));
            let process = start(&mut command)?;
            let mut node = [0; 4];
            words.read_exact(&mut node).with_context(|| format!("the {which} has ended"))?;
            Ok((process, words, u32::from_ne_bytes(node)))
        };
        let (source, _, from) = stream("source")?;
        let (sink, words, to) = stream("sink")?;
        // This program starts no other until it is closed here.
        fcntl(&words, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let (linker, its_end) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.arg("linker").args([from.to_string(), to.to_string()]);
        command.arg(words.as_raw_fd().to_string());
        command.stdin(OwnedFd::from(its_end.try_clone()?)).stdout(OwnedFd::from(its_end));
        let links = start(&mut command)?;
        linker.set_read_timeout(Some(BOUND))?;
        Ok(Self { linker, _all: [links, sink, source, daemon], _folder: folder })
    }

    /// Links them once; gives the nanoseconds until the sink had the buffer.
    pub fn take(&mut self) -> Result<f64> {
        self.linker.write_all(b".")?;
        let mut took = [0; 8];
        if let Err(error) = self.linker.read_exact(&mut took) {
            bail!("the sink was given no buffer: {error}");
        }
        Ok(u64::from_ne_bytes(took) as f64)
    }
}
