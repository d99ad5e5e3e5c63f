# Given to mmdebstrap as a hook; $1 is the root file system. Works on a copy, because /proc, /sys
# and parts of /dev are mounted in the original; device nodes stay out of it, since nobody but
# root could make them. LABEL, SIZE and INODES are set before this text.
set -eu
PATH=$PATH:/usr/sbin:/sbin
copy=$(mktemp -d -p "$(dirname "$1")")
tar -C "$1" --one-file-system --numeric-owner \
    --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./run/*' -cf - . |
    tar -C "$copy" --numeric-owner -xpf -
mkdir -p "$copy/dev" "$copy/proc" "$copy/sys" "$copy/run" "$copy/mnt/stage" "$copy/mnt/share"
chmod 755 "$copy"
mkfs.ext4 -q -F -m 0 -L "$LABEL" -O ^resize_inode,^has_journal -N "$INODES" -d "$copy" "$copy.img" "$SIZE"
mv "$copy.img" "$1/root.ext4"
rm -rf "$copy"
