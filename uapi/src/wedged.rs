//! A driver's word that its device hangs (Documentation/gpu/drm-uapi.rst, "Device Wedging"): a
//! `change` event of the card's primary node with `WEDGED=` and how it can be recovered, and on later
//! kernels `PID=` and `TASK=` of who is blamed for it.
//!
//! Root can have the kernel send a like event, to try a consumer out: `change UUID WEDGED=rebind
//! TASK=name`, written to the node's `uevent` file. Its keys arrive as `SYNTH_ARG_WEDGED=` and so on
//! (Documentation/ABI/testing/sysfs-uevent), with letters and digits only in the values.

use crate::uevent::Uevent;

/// What such an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wedged<'a> {
    /// The methods of recovery in the driver's order, with commas: `rebind`, `bus-reset`,
    /// `vendor-specific`, `unknown`; or `none`: it has recovered by itself.
    pub recovery: &'a str,
    /// Who is blamed, as the kernel cuts names (15 bytes).
    pub task: Option<&'a str>,
    /// Its thread.
    pub pid: Option<u32>,
    /// Whether somebody asked the kernel for the event, and no driver.
    pub injected: bool,
}

impl<'a> Wedged<'a> {
    /// `None` for every other event.
    #[must_use]
    pub fn of(event: &Uevent<'a>) -> Option<Self> {
        if event.action != "change" || event.subsystem != "drm" {
            return None;
        }
        let injected = event.synth_uuid.is_some();
        let get = |own, argument| event.get(if injected { argument } else { own });
        Some(Self {
            recovery: get("WEDGED", "SYNTH_ARG_WEDGED")?,
            task: get("TASK", "SYNTH_ARG_TASK"),
            pid: get("PID", "SYNTH_ARG_PID").and_then(|pid| pid.parse().ok()),
            injected,
        })
    }

    /// Whether the driver has recovered the device itself, so that what it has pending goes on.
    #[must_use]
    pub fn has_recovered(&self) -> bool {
        self.recovery == "none"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, subsystem: &str, more: &str) -> String {
        format!("{action}@/x\0ACTION={action}\0DEVPATH=/x\0SUBSYSTEM={subsystem}\0{more}SEQNUM=1\0")
    }

    #[test]
    fn a_drivers_word() {
        let text = event("change", "drm", "WEDGED=rebind,bus-reset\0PID=77\0TASK=glx gears\0");
        let event = Uevent::parse(text.as_bytes()).unwrap();
        let wedged = Wedged::of(&event).unwrap();
        assert_eq!((wedged.recovery, wedged.task), ("rebind,bus-reset", Some("glx gears")));
        assert_eq!((wedged.pid, wedged.injected), (Some(77), false));
        assert!(!wedged.has_recovered());
    }

    #[test]
    fn older_kernels_blame_nobody() {
        let text = event("change", "drm", "WEDGED=none\0");
        let wedged = Wedged::of(&Uevent::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!((wedged.task, wedged.pid), (None, None));
        assert!(wedged.has_recovered());
    }

    #[test]
    fn an_injected_one_says_so() {
        let more = "SYNTH_UUID=0\0SYNTH_ARG_WEDGED=rebind\0SYNTH_ARG_TASK=foo\0";
        let text = event("change", "drm", more);
        let wedged = Wedged::of(&Uevent::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!((wedged.recovery, wedged.task, wedged.injected), ("rebind", Some("foo"), true));
    }

    #[test]
    fn other_events_are_none() {
        for text in [
            event("change", "drm", "HOTPLUG=1\0"),
            event("change", "net", "WEDGED=rebind\0"),
            event("add", "drm", "WEDGED=rebind\0"),
            event("change", "drm", "SYNTH_UUID=0\0"),
            event("change", "drm", "SYNTH_ARG_WEDGED=rebind\0"),
            event("change", "drm", "WEDGED=\0\u{1}=\0").replace("WEDGED", "WEDGE"),
        ] {
            assert_eq!(Wedged::of(&Uevent::parse(text.as_bytes()).unwrap()), None, "{text:?}");
        }
    }
}
