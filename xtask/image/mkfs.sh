# Given to mmdebstrap as a hook; $1 is the root file system. Works on a copy, because /proc, /sys
# and parts of /dev are mounted in the original.
set -eu
PATH=$PATH:/usr/sbin:/sbin
copy=$(mktemp -d)
cp -ax "$1/." "$copy/"
rm -rf "$copy/dev" "$copy/root.ext4"
mkdir -p "$copy/dev" "$copy/proc" "$copy/sys" "$copy/run" "$copy/tmp" "$copy/mnt/stage" "$copy/mnt/share"
chmod 1777 "$copy/tmp"
chmod 755 "$copy"
mkfs.ext4 -q -F -m 0 -L dmashare-vm -O ^resize_inode,^has_journal -N 40000 -d "$copy" "$copy.img" 768M
mv "$copy.img" "$1/root.ext4"
rm -rf "$copy"
