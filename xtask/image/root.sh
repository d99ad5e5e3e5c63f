#!/bin/sh
# Runs in the chroot of the guest's root file system, after its packages are installed.
set -eu

# What kept services from being started while the packages were installed.
rm -f /usr/sbin/policy-rc.d

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
# Nothing here serves a machine that lives for some minutes and has no network, no disk of its own
# and nobody at a console; each costs a part of a second at every boot.
systemctl mask --quiet \
    getty.target getty-static.service serial-getty@.service console-getty.service \
    systemd-ask-password-console.path systemd-ask-password-wall.path \
    dev-hugepages.mount dev-mqueue.mount run-lock.mount tmp.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount \
    modprobe@configfs.service systemd-binfmt.service systemd-creds.socket \
    systemd-firstboot.service systemd-hibernate-clear.service systemd-hwdb-update.service \
    systemd-initctl.socket systemd-journal-catalog-update.service systemd-journal-flush.service \
    systemd-machine-id-commit.service systemd-pcrextend.socket systemd-pcrlock.socket \
    systemd-pcrmachine.service systemd-pcrphase-sysinit.service systemd-pcrphase.service \
    systemd-pstore.service systemd-random-seed.service systemd-remount-fs.service \
    systemd-rfkill.service systemd-rfkill.socket systemd-sysext.socket \
    systemd-tmpfiles-clean.timer systemd-tpm2-setup-early.service systemd-tpm2-setup.service \
    systemd-udev-load-credentials.service
for generator in debug getty gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2; do
    rm -f "/usr/lib/systemd/system-generators/systemd-$generator-generator"
done
# Rules for what this machine does not have.
for rules in 60-block 60-cdrom_id 60-dmi-id 60-fido-id 60-infiniband 60-persistent-alsa \
    60-persistent-storage 60-persistent-storage-mtd 60-persistent-storage-tape 60-persistent-v4l \
    60-sensor 60-serial 64-btrfs 70-camera 70-joystick 70-memory 75-net-description 75-probe_mtd \
    78-sound-card 80-net-setup-link 81-net-dhcp 90-iocost; do
    rm -f "/usr/lib/udev/rules.d/$rules.rules"
done
# What runs when /usr is newer than these has been done by the packages.
systemd-sysusers
ldconfig
touch -d '+1 day' /etc/.updated /var/.updated

rm -rf /var/lib/apt /var/cache/apt /var/cache/debconf /usr/share/doc /usr/share/man \
    /usr/share/locale /usr/share/info /usr/share/bash-completion /usr/share/zsh \
    /usr/lib/udev/hwdb.d /usr/lib/udev/hwdb.bin /usr/lib/systemd/catalog \
    /var/log/journal /usr/share/pixmaps /recipe
find / -xdev -name __pycache__ -type d -prune -exec rm -rf {} + || true
