#!/bin/bash
# build-xen-hcd.sh WORKDIR: builds the pvUSB frontend of Linux (drivers/usb/host/xen-hcd.c) out of tree for the kernel in WORKDIR/root, from
# Debian's own linux-source and linux-headers: Debian's kernel has CONFIG_USB_XEN_HCD off. Output: WORKDIR/extra-modules/KERNEL/xen-hcd.ko
set -euo pipefail
W=${1:?usage: build-xen-hcd.sh WORKDIR}
export DEBIAN_FRONTEND=noninteractive
KV=$(ls "$W/root/lib/modules" | sort -V | tail -1)
V=$(chroot "$W/root" dpkg-query -W -f '${Version}' "linux-image-$KV")
need=()
for p in gcc-12 make libc6-dev libelf1 xz-utils; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || need+=("$p"); done
if ((${#need[@]})); then apt-get update -q; apt-get install -y --no-install-recommends "${need[@]}"; fi
B=$W/build-xen-hcd
trap 'rm -rf "$B"' EXIT
rm -rf "$B"; mkdir -p "$B/tree" "$B/module" "$W/extra-modules/$KV"; cd "$B"
apt-get download -q -o APT::Sandbox::User=root "linux-headers-$KV=$V" "linux-headers-${KV%-amd64}-common=$V" "linux-kbuild-6.1=$V" "linux-source-6.1=$V"
for d in linux-headers-*.deb linux-kbuild-*.deb; do dpkg -x "$d" tree; done
# the readers stop at the one file that is wanted, and the writers complain of that
dpkg --fsys-tarfile linux-source-6.1_*.deb 2>/dev/null | tar -xO ./usr/src/linux-source-6.1.tar.xz 2>/dev/null |
  tar -xJ --occurrence=1 --strip-components=4 -C module linux-source-6.1/drivers/usb/host/xen-hcd.c 2>/dev/null || [ -s module/xen-hcd.c ]
# the header package names itself by its absolute path
H=$B/tree/usr/src/linux-headers-$KV
sed -i "s#/usr/src/#$B/tree/usr/src/#g" "$H/Makefile"
echo 'obj-m := xen-hcd.o' >module/Makefile
make -C "$H" M="$B/module" modules
cp module/xen-hcd.ko "$W/extra-modules/$KV/"
