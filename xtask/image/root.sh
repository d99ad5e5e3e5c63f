#!/bin/sh
# Runs in the chroot of the guest's root file system, after its packages are installed.
set -eu

echo dmashare-vm > /etc/hostname
printf '127.0.0.1 localhost dmashare-vm\n' > /etc/hosts
# Known from the start, so that no boot is a first boot.
echo 6d6173686172652d766d2d6775657374 > /etc/machine-id
: > /etc/fstab
: > /etc/resolv.conf
passwd -d root
# Two people without privilege for the tests, who may use GPUs.
for group in video render; do
    getent group "$group" > /dev/null || groupadd -r "$group"
done
useradd -m -u 1000 -G video,render alice
useradd -m -u 1001 -G video,render bob

cp -R /recipe/files/. /
systemctl enable mnt-stage.mount vm-agent.service
systemctl set-default multi-user.target
# Nothing here serves a machine that lives for some minutes and has no network or console user.
systemctl mask getty.target console-getty.service getty-static.service serial-getty@.service \
    systemd-timesyncd.service systemd-networkd.service systemd-resolved.service \
    systemd-pstore.service systemd-hwdb-update.service systemd-update-utmp.service \
    systemd-firstboot.service systemd-update-done.service systemd-journal-catalog-update.service \
    systemd-machine-id-commit.service systemd-random-seed.service systemd-rfkill.service \
    systemd-rfkill.socket systemd-tmpfiles-clean.timer apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer fstrim.timer motd-news.timer \
    dev-hugepages.mount dev-mqueue.mount systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    sys-fs-fuse-connections.mount systemd-modules-load.service \
    systemd-remount-fs.service systemd-boot-random-seed.service \
    systemd-pcrphase.service systemd-journal-flush.service > /dev/null
systemctl unmask systemd-modules-load.service

rm -rf /var/lib/apt /var/cache/apt /var/cache/debconf /usr/share/doc /usr/share/man \
    /usr/share/locale /usr/share/info /usr/share/bash-completion /usr/share/zsh \
    /usr/lib/udev/hwdb.d /usr/lib/udev/hwdb.bin /usr/lib/systemd/catalog \
    /var/log/journal /usr/share/pixmaps /recipe
find / -xdev -name __pycache__ -type d -prune -exec rm -rf {} + || true
