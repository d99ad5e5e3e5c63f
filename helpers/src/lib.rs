//! What the broker has others do for it, each in a process of its own with just the rights for that: a
//! request comes as one line of JSON on standard input, answers go out as lines of JSON.
//!
//! | program | does | needs |
//! | --- | --- | --- |
//! | `dmashare-holders` | looks into every process | CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_CHECKPOINT_RESTORE |
//! | `dmashare-keeper` | holds the broker's descriptors over its restarts | nothing |
//! | `dmashare-kill` | ends a process | CAP_KILL |
//! | `dmashare-pci` | writes to sysfs: synthetic uevents, removal, rescan | root's files, no capability |

pub mod holders;
pub mod keeper;
pub mod kill;
pub mod pci;
