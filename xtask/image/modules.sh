#!/bin/sh
# Runs in a chroot that holds the kernel's packages, extracted and not installed. Builds sw_sync
# and vkms from the distribution's own source for the very kernel of the image, and leaves in
# /out: kernel, initrd, modules.tar.
set -eu
say() { echo "step: $*"; }

version=$(basename /lib/modules/*)
headers=/usr/src/linux-headers-$version
src=/build/linux
mkdir -p /out "$src"

# Extracted packages have had no alternatives set up.
ln -sf mawk /usr/bin/awk

say "unpack the parts of the kernel source that are needed"
tar -xf /usr/src/linux-source-6.12.tar.xz -C "$src" --strip-components=1 --wildcards \
    '*/drivers/dma-buf/sw_sync.c' '*/drivers/dma-buf/sync_*' '*/drivers/gpu/drm/vkms/*'

say "build sw_sync and vkms for $version"
# sw_sync is bool in Kconfig, but has nothing that only built-in code can use, save a name for its
# debug listing. Its late_initcall is module_init in a module. It never goes away again: it has no
# exit function, and its debugfs files would stay.
cd "$src/drivers/dma-buf"
sed -i 's/sync_file_get_name(sync_file, buf, sizeof(buf))/sync_file->user_name/
        s/^\tchar buf\[128\];$//
        s|^#include <linux/debugfs.h>|&\n#include <linux/module.h>|' sync_debug.c
sed -i 's|^#define TRACE_INCLUDE_PATH .*|#define TRACE_INCLUDE_PATH .|' sync_trace.h
cat >> sync_debug.c <<'END'
MODULE_DESCRIPTION("Sync File validation framework, built out of tree");
MODULE_LICENSE("GPL");
END
cat > Makefile <<'END'
obj-m := sw_sync.o
sw_sync-y := sync_debug.o sw_sync_main.o
CFLAGS_sw_sync_main.o := -I$(src)
END
mv sw_sync.c sw_sync_main.c
for dir in drivers/dma-buf drivers/gpu/drm/vkms; do
    make -s -j"$(nproc)" -C "$headers" M="$src/$dir" CONFIG_DRM_VKMS=m modules
done
extra=/lib/modules/$version/updates
mkdir -p "$extra"
cp "$src/drivers/dma-buf/sw_sync.ko" "$src/drivers/gpu/drm/vkms/vkms.ko" "$extra/"

say "choose the modules of the image"
depmod "$version"
closure() {
    for module in "$@"; do
        modprobe -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++'
}
tree=/build/tree
mkdir -p "$tree/usr" && ln -s usr/lib "$tree/lib"
for path in $(closure $(cat /build/modules.list)); do
    mkdir -p "$tree/usr$(dirname "$path")"
    case $path in
        # Decompressed: the guest's processor is emulated, and slow at it.
        *.xz) xz -dc "$path" > "$tree/usr${path%.xz}" ;;
        *) cp "$path" "$tree/usr$path" ;;
    esac
done
cp /lib/modules/"$version"/modules.order /lib/modules/"$version"/modules.builtin* \
    "$tree/usr/lib/modules/$version/"
depmod -b "$tree" "$version"
tar -C "$tree" -cf /out/modules.tar usr

say "make the initrd"
initrd=/build/initrd
mkdir -p "$initrd/bin" "$initrd/modules" "$initrd/dev" "$initrd/proc" "$initrd/root"
cp /bin/busybox "$initrd/bin/"
cp /build/initrd-init "$initrd/init"
chmod 755 "$initrd/init"
number=100
for path in $(closure virtio_blk crc32c_generic ext4); do
    xz -dc "$path" > "$initrd/modules/$number-$(basename "${path%.xz}")"
    number=$((number + 1))
done
(cd "$initrd" && find . | cpio --quiet -o -H newc -R 0:0) > /out/initrd

say "unpack the kernel"
# The emulated processor would take some seconds for it, at every boot. The boot protocol's header
# says where the compressed kernel is: 512-byte set-up sectors, then payload_offset, payload_length
# (with four bytes of the unpacked length at its end).
image=/boot/vmlinuz-$version
number() { od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }
start=$((($(number "$image" 497 1) + 1) * 512 + $(number "$image" 584 4)))
length=$(($(number "$image" 588 4) - 4))
tail -c "+$((start + 1))" "$image" | head -c "$length" > /build/payload
if zstd -qdc /build/payload > /out/kernel; then
    echo "unpacked: $(wc -c < /out/kernel) bytes"
else
    cp "$image" /out/kernel
fi
echo "$version" > /out/version
