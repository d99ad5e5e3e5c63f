//! What the figures were taken on.

use std::fmt;
use std::fs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// A machine, as it says about itself.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    /// Its processors' model.
    processor: String,
    /// How many it has for this program.
    processors: usize,
    /// Its kernel.
    kernel: String,
    /// Its memory, in MiB.
    memory_mib: u64,
    /// Whether devices, buffers and fences are the kernel's, and not simulated ones.
    real: bool,
    /// This program's version.
    version: String,
}

impl Machine {
    /// Whether what it measured are the kernel's own objects.
    pub fn is_real(&self) -> bool {
        self.real
    }

    /// This one.
    pub fn describe(real: bool) -> Result<Self> {
        let line = |path: &str, key: &str| -> Result<String> {
            let text = fs::read_to_string(path)?;
            let line = text.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
            Ok(value.unwrap_or("unknown").to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal")?;
        Ok(Self {
            processor: line("/proc/cpuinfo", "model name")?,
            processors: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            memory_mib: memory.trim_end_matches(" kB").parse().unwrap_or(0) / 1024,
            real,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, kernel, memory_mib, real, version } = self;
        let devices = if *real { "the kernel's own devices" } else { "simulated devices" };
        write!(
            f,
            "dmashare {version} on {processors} processors ({processor}), {memory_mib} MiB, \
             Linux {kernel}; {devices}"
        )
    }
}
