#!/bin/sh
# install.sh BINDIR [DESTDIR]: installs dmashared, its helpers and dmasharectl from BINDIR, with units and
# policies.
#
# Without DESTDIR it installs into the running system, and starts the sockets. With one it only copies
# (a package, an image); then the system's own triggers do the rest.
set -eu

usage() {
    echo "usage: $0 BINDIR [DESTDIR]" >&2
    exit 2
}

case $# in
1 | 2) ;;
*) usage ;;
esac
bin=$1
dest=${2:-}
here=$(cd "$(dirname "$0")" && pwd)

programs="dmashared dmasharectl"
# Each is started by a socket of its own.
helpers="dmashare-holders dmashare-keeper dmashare-kill dmashare-pci"

for binary in $programs $helpers; do
    if [ ! -x "$bin/$binary" ]; then
        echo "$0: there is no $binary in $bin; build it first: cargo build --release" >&2
        exit 1
    fi
done
if [ -z "$dest" ] && [ "$(id -u)" -ne 0 ]; then
    echo "$0: installing into the running system needs root; or name a DESTDIR" >&2
    exit 1
fi

put() { # MODE SOURCE TARGET
    install -D -m "$1" "$2" "$dest$3"
}

for binary in $programs; do
    put 0755 "$bin/$binary" "/usr/bin/$binary"
done
put 0755 "$here/kernel-access" /usr/libexec/dmashare/kernel-access
for helper in $helpers; do
    put 0755 "$bin/$helper" "/usr/libexec/dmashare/$helper"
done
for unit in "$here"/dmashare*.socket "$here"/dmashared.service "$here"/dmashare-*@.service; do
    put 0644 "$unit" "/usr/lib/systemd/system/${unit##*/}"
done
put 0644 "$here/dmashare.sysusers" /usr/lib/sysusers.d/dmashare.conf
put 0644 "$here/dmashare.tmpfiles" /usr/lib/tmpfiles.d/dmashare.conf
put 0644 "$here/70-dmashare.rules" /usr/lib/udev/rules.d/70-dmashare.rules
put 0644 "$here/org.dmashare.Broker1.conf" /usr/share/dbus-1/system.d/org.dmashare.Broker1.conf
put 0644 "$here/org.dmashare.Broker1.service" \
    /usr/share/dbus-1/system-services/org.dmashare.Broker1.service
put 0644 "$here/org.dmashare.policy" /usr/share/polkit-1/actions/org.dmashare.policy
put 0644 "$here/dmashare-notify.service" /usr/lib/systemd/user/dmashare-notify.service
put 0644 "$here/dmashare.catalog" /usr/lib/systemd/catalog/dmashare.catalog
put 0644 "$here/dmashared.8" /usr/share/man/man8/dmashared.8
put 0644 "$here/dmashared.toml.5" /usr/share/man/man5/dmashared.toml.5
# The tool writes its own manual and completions; one for another machine cannot be run here.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
if "$bin/dmasharectl" man "$made" 2>/dev/null; then
    for page in "$made"/*.1; do
        put 0644 "$page" "/usr/share/man/man1/${page##*/}"
    done
    for shell in bash zsh fish; do
        "$bin/dmasharectl" completions "$shell" >"$made/$shell"
    done
    put 0644 "$made/bash" /usr/share/bash-completion/completions/dmasharectl
    put 0644 "$made/zsh" /usr/share/zsh/site-functions/_dmasharectl
    put 0644 "$made/fish" /usr/share/fish/vendor_completions.d/dmasharectl.fish
fi
# For other programs' code generators; this folder may have been carried here without the tree around.
interfaces="$here/../daemon/dbus/org.dmashare.Broker1.xml"
if [ -e "$interfaces" ]; then
    put 0644 "$interfaces" /usr/share/dbus-1/interfaces/org.dmashare.Broker1.xml
fi

[ -z "$dest" ] || exit 0

# The user comes first: the bus ignores a policy for one that it does not know.
systemd-sysusers dmashare.conf
systemd-tmpfiles --create dmashare.conf
udevadm control --reload
journalctl --update-catalog
systemctl daemon-reload
busctl call --quiet org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
# A daemon of an earlier version runs until now.
systemctl try-restart dmashared.service
for socket in "$here"/dmashare*.socket; do
    systemctl enable "${socket##*/}"
    systemctl start "${socket##*/}"
done
# With everybody's next desktop; who does not want it masks it.
systemctl --global enable dmashare-notify.service
