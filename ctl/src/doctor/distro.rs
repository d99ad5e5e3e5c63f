//! What the distributions ship, and how to get what they do not.

use super::host::Host;

/// The distribution, as far as its kernel's configuration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distro {
    Ubuntu,
    Debian,
    Fedora,
    Arch,
    ChromeOs,
    Other,
}

impl Distro {
    pub(super) fn of(host: &Host<'_>) -> Self {
        let text = host.text("/etc/os-release");
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .unwrap_or_default()
                .trim_matches('"')
                .to_owned()
        };
        let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
        // Ubuntu's own derivatives name ubuntu before debian.
        ids.split_whitespace()
            .find_map(|id| match id {
                "ubuntu" => Some(Self::Ubuntu),
                "debian" => Some(Self::Debian),
                "fedora" | "rhel" => Some(Self::Fedora),
                "arch" | "steamos" => Some(Self::Arch),
                "chromeos" => Some(Self::ChromeOs),
                _ => None,
            })
            .unwrap_or(Self::Other)
    }

    /// Why sw_sync is not there, and what to do.
    pub(super) fn about_sw_sync(self) -> &'static str {
        match self {
            Self::Ubuntu => {
                "Ubuntu's stock kernels have it: boot the distribution's own kernel, or build with \
                 CONFIG_SW_SYNC=y"
            }
            Self::ChromeOs => "ChromeOS's kernels have it: is debugfs locked down?",
            Self::Debian => {
                "Debian's kernels are built without it; a kernel with CONFIG_SW_SYNC=y has it \
                 (Ubuntu's, Android's and ChromeOS's are)"
            }
            Self::Fedora | Self::Arch => {
                "this distribution's kernels are built without it; a kernel with CONFIG_SW_SYNC=y \
                 has it (Ubuntu's, Android's and ChromeOS's are)"
            }
            Self::Other => {
                "it needs a kernel with CONFIG_SW_SYNC=y (Ubuntu's, Android's and ChromeOS's are)"
            }
        }
    }

    /// How to get the vgem module where the running kernel has none installed.
    pub(super) fn about_vgem(self) -> &'static str {
        match self {
            Self::Ubuntu => {
                "install the modules of the running kernel: \
                 apt install linux-modules-extra-$(uname -r), then modprobe vgem"
            }
            Self::Debian => {
                "Debian's stock kernel has it as a module, the `cloud` one does not: \
                 apt install linux-image-amd64 (or your architecture's), reboot, modprobe vgem"
            }
            Self::Fedora | Self::Arch => {
                "this distribution's stock kernel has it as a module: reinstall its modules, or \
                 reboot if the kernel was updated, then modprobe vgem"
            }
            Self::ChromeOs => "ChromeOS's kernels have no vgem; they have sw_sync",
            Self::Other => "it needs a kernel with CONFIG_DRM_VGEM=m, then modprobe vgem",
        }
    }
}
