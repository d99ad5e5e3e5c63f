//! Which machine, which guards, which way to lose a card.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// Files, memfds and eventfds; runs anywhere, as any user.
    Simulated,
    /// A real kernel: the virtual machine of `cargo xtask vm`, as root.
    Vm,
}

/// What the broker makes guard fences of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// Eventfds.
    Simulated,
    /// sw_sync.
    SwSync,
    /// vgem.
    Vgem,
    /// Nothing: a real kernel on which none can be made.
    None,
}

impl Backend {
    /// The name on D-Bus and in the names of scenarios.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::SwSync => "sw_sync",
            Self::Vgem => "vgem",
            Self::None => "none",
        }
    }

    /// The machine that has it.
    #[must_use]
    pub const fn machine(self) -> Machine {
        match self {
            Self::Simulated => Machine::Simulated,
            Self::SwSync | Self::Vgem | Self::None => Machine::Vm,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "simulated",
            Self::Vm => "vm",
        })
    }
}

impl FromStr for Machine {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "simulated" => Ok(Self::Simulated),
            "vm" => Ok(Self::Vm),
            _ => Err("one of simulated, vm".to_owned()),
        }
    }
}

/// A way to lose the eGPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplug {
    /// `remove` in sysfs; simulated: its events and its absence. It can be plugged in again.
    Remove,
    /// A PCIe hot-unplug by QEMU's monitor: once in the life of a virtual machine.
    HotUnplug,
    /// It answers no more, and no event tells of it: once in the life of a machine.
    Vanish,
}
