//! All that the image is made from, but the distribution's packages.

use sha2::{Digest, Sha256};

/// The distribution's release.
pub const SUITE: &str = "trixie";
/// The release that compositors are taken from: those of [`SUITE`] know no explicit sync.
pub const DESKTOP_SUITE: &str = "forky";

/// To be raised when the same recipe is to give another image.
const FORMAT: &str = "1";

/// Below /usr/share, and of no use in the guest.
pub const LEFT_OUT: &[&str] = &["doc", "man", "locale", "info"];

/// What the desktop can do without: drivers of GPUs that the machine does not have, and what nobody
/// reads there.
pub const DESKTOP_LEFT_OUT: &[&str] = &[
    "/usr/lib/*/libvulkan_[!l]*",
    "/usr/share/vulkan/icd.d/[!l]*",
    "/usr/lib/*/dri/*_drv_video.so",
    "/usr/lib/*/gconv/*",
    "/usr/share/bash-completion/*",
    "/usr/share/zsh/*",
    "/usr/share/lintian/*",
];
/// Nothing is installed there any more.
pub const DESKTOP_CLEAN: &str = "rm -rf \"$1\"/var/lib/apt \"$1\"/var/cache/apt \"$1\"/var/cache/debconf \"$1\"/usr/share/pixmaps";

/// Builds kernel, initrd and modules, in a chroot of `builder.list`.
pub const MODULES_SH: &str = include_str!("../../image/modules.sh");
/// The initrd's only program.
pub const INITRD_INIT: &str = include_str!("../../image/initrd-init");
/// The kernel modules of the guest; those that they need come by themselves.
pub const MODULES_LIST: &str = include_str!("../../image/modules.list");
/// What the kernel and the modules are built from.
pub const BUILDER_LIST: &str = include_str!("../../image/builder.list");
/// The guest's packages.
pub const PACKAGES_LIST: &str = include_str!("../../image/packages.list");
/// Compositors, and the drivers that they and Vulkan programs draw with.
pub const DESKTOP_LIST: &str = include_str!("../../image/desktop.list");
/// Sets the guest up, in its chroot.
pub const ROOT_SH: &str = include_str!("../../image/root.sh");
/// Makes the file system.
pub const MKFS_SH: &str = include_str!("../../image/mkfs.sh");

/// Files that are laid over the guest's root.
pub const FILES: &[(&str, &str)] = &[
    (
        "etc/modules-load.d/dmashare-vm.conf",
        include_str!("../../image/files/etc/modules-load.d/dmashare-vm.conf"),
    ),
    ("etc/sysctl.d/vm.conf", include_str!("../../image/files/etc/sysctl.d/vm.conf")),
    (
        "etc/systemd/journald.conf.d/vm.conf",
        include_str!("../../image/files/etc/systemd/journald.conf.d/vm.conf"),
    ),
    (
        "etc/systemd/system/mnt-stage.mount",
        include_str!("../../image/files/etc/systemd/system/mnt-stage.mount"),
    ),
    (
        "etc/systemd/system/vm-agent.service",
        include_str!("../../image/files/etc/systemd/system/vm-agent.service"),
    ),
    (
        "etc/udev/rules.d/60-dmashare-vm.rules",
        include_str!("../../image/files/etc/udev/rules.d/60-dmashare-vm.rules"),
    ),
];

/// The packages of a list, as mmdebstrap wants them.
pub fn packages(list: &str) -> String {
    list.split_whitespace().collect::<Vec<_>>().join(",")
}

/// The same for the image of the desktop.
pub fn desktop_hash() -> String {
    let texts = [FORMAT, DESKTOP_SUITE, DESKTOP_LIST, DESKTOP_CLEAN, MKFS_SH];
    hash_of(texts.into_iter().chain(LEFT_OUT.iter().chain(DESKTOP_LEFT_OUT).copied()))
}

/// The name of what this recipe gives: the same for the same recipe, and for no other.
pub fn hash() -> String {
    let texts = [
        FORMAT,
        SUITE,
        MODULES_SH,
        INITRD_INIT,
        MODULES_LIST,
        BUILDER_LIST,
        PACKAGES_LIST,
        ROOT_SH,
        MKFS_SH,
    ];
    let files = FILES.iter().flat_map(|(path, text)| [*path, *text]);
    hash_of(texts.into_iter().chain(files).chain(LEFT_OUT.iter().copied()))
}

/// Lengths go in too, so that text cannot move from one part to the next unseen.
fn hash_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_stable_and_tells_parts_apart() {
        assert_eq!(hash_of(["a", "b"]), "cf6ab613e3942391");
        assert_ne!(hash_of(["ab", ""]), hash_of(["a", "b"]));
        assert_eq!(hash(), hash());
    }

    #[test]
    fn lists() {
        assert_eq!(packages("a\nb\n"), "a,b");
    }
}
