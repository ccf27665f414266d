#!/bin/bash
# build-image.sh WORKDIR: builds the test host's root file system, kernel and tiny initramfs, and the unpacked Xen binary.
# Needs root and a Debian machine whose package sources reach bookworm. Output: WORKDIR/img/{rootfs.ext4,vmlinux,initrd,domu-initrd,xen};
# WORKDIR/root (the tree) is kept, so that a second run only packs again (5 s).
set -euo pipefail
W=${1:?usage: build-image.sh WORKDIR}
HERE=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" = 0 ] || { echo "building the test host's image needs root (mmdebstrap, chroot)" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
STAMP() { echo "[$(date +%T) +${SECONDS}s] $*"; }
need=()
for p in mmdebstrap e2fsprogs cpio busybox-static qemu-system-x86 qemu-utils python3 xz-utils; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || need+=("$p")
done
if ((${#need[@]})); then apt-get update -q; apt-get install -y --no-install-recommends "${need[@]}"; fi
STAMP "host tools ready"
mkdir -p "$W/img"
R=$W/root
PK=linux-image-amd64,udev,kmod,iproute2,procps,usbutils,socat,jq,python3-minimal,strace,busybox-static
PK+=,xen-hypervisor-4.17-amd64,xen-utils-4.17,xen-utils-common,xenstore-utils,qemu-system-xen,qemu-system-x86,seabios,libstdc++6,psmisc,util-linux,mount,less
# the package sources of this machine serve the image as well (APT_SOURCES names others)
APT_SOURCES=${APT_SOURCES:-$(find /etc/apt -maxdepth 2 -type f \( -name '*.list' -o -name '*.sources' \))}
if [ ! -e "$R/.done" ]; then
  rm -rf "$R"
  # INITRD=No and update_initramfs=no: the distribution's 36 MB initramfs is never used here, so it is never built
  INITRD=No mmdebstrap --mode=root --variant=apt \
    --setup-hook='mkdir -p "$1/etc/initramfs-tools"; echo update_initramfs=no > "$1/etc/initramfs-tools/update-initramfs.conf"' \
    --dpkgopt='force-confold' \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --include=$PK bookworm "$R" $APT_SOURCES
  touch "$R/.done"
fi
STAMP "rootfs tree $(du -sm --apparent-size "$R" | cut -f1) MiB"
KV=$(ls "$R/lib/modules" | grep -v rt | sort -V | tail -1)
# --- kernel and hypervisor, decompressed here once so that nothing is decompressed under TCG
python3 - "$R/boot/vmlinuz-$KV" "$W/img/vmlinux" <<'PY'
import sys, lzma, zlib, subprocess
d = open(sys.argv[1],'rb').read()
for magic, fn in ((b'\xfd7zXZ\0', lambda b: lzma.LZMADecompressor().decompress(b)),
                  (b'\x28\xb5\x2f\xfd', lambda b: subprocess.run(['zstd','-dc'],input=b,stdout=subprocess.PIPE).stdout),
                  (b'\x1f\x8b\x08', lambda b: zlib.decompressobj(31).decompress(b))):
    i = d.find(magic)
    while i >= 0:
        try: out = fn(d[i:])
        except Exception: out = b''
        if out[:4] == b'\x7fELF':
            open(sys.argv[2],'wb').write(out); print('vmlinux', magic, len(out)); sys.exit(0)
        i = d.find(magic, i+1)
sys.exit('no ELF found')
PY
zcat "$R"/boot/xen-4.17-amd64.gz > "$W/img/xen"
cp "$R/boot/vmlinuz-$KV" "$W/img/vmlinuz"
STAMP "kernel $KV and xen ready"
# --- prune modules that an emulated PC never loads (speeds up udev's alias look-ups and shrinks the image)
M=$R/lib/modules/$KV/kernel
if [ ! -e "$R/.pruned" ]; then
  (cd "$M" && rm -rf sound drivers/{gpu,media,infiniband,isdn,staging,iio,hwmon,mmc,mtd,memstick,bluetooth,edac,firewire,gpio,i2c,leds,message,mfd,nfc,ntb,nvme,parport,pcmcia,platform,power,pwm,regulator,rtc,scsi/[a-rt-z]*,soc,spi,ssb,target,thermal,thunderbolt,vhost,video,w1,watchdog,comedi,crypto,accessibility,bcma,char/ipmi,char/tpm,dca,dax,dma,nvdimm,cpufreq,devfreq,extcon,hv,visorbus} \
     fs/{btrfs,xfs,ocfs2,cifs,ceph,nfs,nfsd,gfs2,f2fs,jfs,reiserfs,ubifs,ntfs,ntfs3,afs,coda,udf,nilfs2,dlm,orangefs,ksmbd,smbfs_common,lockd} net/{wireless,mac80211,bluetooth,batman-adv,sctp,tipc,ceph,rxrpc,openvswitch,netfilter,sched,bridge/netfilter,ipv4/netfilter,ipv6/netfilter,dccp,can,nfc,ieee802154,mac802154,atm,ax25,6lowpan,ncsi,mptcp,sunrpc,l2tp,mpls,nsh,smc,tls,vmw_vsock,wireguard} || true
   cd drivers/net && for d in *; do case $d in virtio_net.ko|xen-net*|net_failover.ko|tap.ko|tun.ko|veth.ko|usb|ethernet|mii.ko) ;; *) rm -rf "$d";; esac; done
   cd ethernet && for d in *; do [ "$d" = intel ] || rm -rf "$d"; done; cd intel && for d in *; do case $d in e1000|e1000e) ;; *) rm -rf "$d";; esac; done)
  rm -f "$R"/boot/initrd.img* "$R"/initrd.img* "$R"/vmlinuz*
  touch "$R/.pruned"
fi
# --- the pvUSB frontend, which Debian's kernel is built without
X=$W/extra-modules/$KV/xen-hcd.ko
if [ ! -e "$X" ]; then bash "$HERE/build-xen-hcd.sh" "$W"; STAMP "xen-hcd.ko built"; fi
mkdir -p "$R/lib/modules/$KV/extra"; cp "$X" "$R/lib/modules/$KV/extra/"
chroot "$R" depmod "$KV"
cp -a "$HERE/overlay/." "$R/"
# --- Node 20 from this machine (the program under test), with the libraries the rootfs lacks
if command -v node >/dev/null; then install -m755 "$(readlink -f "$(command -v node)")" "$R/usr/local/bin/node"; chroot "$R" ldd /usr/local/bin/node | grep 'not found' || true; fi
rm -rf "$R"/usr/share/{perl,perl5,iso-codes,xml,gstreamer*,bash-completion} "$R"/var/cache/apt/* "$R"/usr/lib/x86_64-linux-gnu/perl "$R"/usr/share/qemu/{openbios*,opensbi*,skiboot*,slof*,s390*,hppa*,palcode*,*.dtb} 2>/dev/null || true
mkdir -p "$R/host"; : > "$R/etc/fstab"; echo xenbed > "$R/etc/hostname"; chmod +x "$R"/lab/*

# --- tiny initramfs: busybox, five modules, switch_root
I=$(mktemp -d); mkdir -p "$I"/{bin,dev,proc,sys,newroot,m}
cp "$R/bin/busybox" "$I/bin/"; 
mods() { for m in "$@"; do chroot "$R" modprobe --show-depends -S "$KV" "$m" 2>/dev/null | awk '$1=="insmod"{print $2}'; done | grep -v pclmul | awk '!s[$0]++'; }
: > "$I/m/list"
for f in $(mods virtio_pci virtio_blk crc32c_generic ext4); do cp "$R$f" "$I/m/"; basename "$f" >> "$I/m/list"; done
cat > "$I/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sysfs /sys; $B mount -t devtmpfs dev /dev
while read m; do $B insmod /m/$m || echo "insmod $m failed"; done < /m/list
n=0; while [ ! -b /dev/vda ] && [ $n -lt 200 ]; do $B usleep 50000; n=$((n+1)); done
$B mount -t ext4 -o noatime /dev/vda /newroot || exec $B sh
$B mount --move /dev /newroot/dev; $B umount /sys; $B umount /proc
exec $B switch_root /newroot /lab/init
INIT
chmod +x "$I/init"; (cd "$I" && find . | cpio -o -H newc --quiet) > "$W/img/initrd"
rm -rf "$I"
# --- domU initramfs: busybox and the USB and Xen front-end modules; reports its USB devices on the console
I=$(mktemp -d); mkdir -p "$I"/{bin,dev,proc,sys,m}
cp "$R/bin/busybox" "$I/bin/"; : > "$I/m/list"
for f in $(mods xhci_pci ehci_pci uhci_hcd usb-storage usbhid hid-generic evdev sd_mod cdc_acm ftdi_sio xen-hcd); do cp "$R$f" "$I/m/"; basename "$f" >> "$I/m/list"; done
cat > "$I/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sysfs /sys; $B mount -t devtmpfs dev /dev
while read m; do $B insmod /m/$m || echo "insmod $m failed"; done < /m/list
echo "DOMU ready up=$($B cut -d' ' -f1 /proc/uptime)"
old=
$B mkfifo /never; exec 9<>/never
while :; do
  new= # the shell's own words only: a process costs a tenth of a second where an emulated machine emulates another
  for d in /sys/bus/usb/devices/*; do
    { read -r v && read -r p <&3 && read -r s <&4; } 2>/dev/null < "$d/idVendor" 3< "$d/idProduct" 4< "$d/speed" && new="$new${d##*/}=$v:$p@$s "
  done 2>/dev/null
  if [ "$new" != "$old" ]; then read -r up rest < /proc/uptime; echo "DOMU usb up=$up $new"; old=$new; fi
  read -r -t 0.4 nothing <&9
done
INIT
chmod +x "$I/init"; (cd "$I" && find . | cpio -o -H newc --quiet) > "$W/img/domu-initrd"
rm -rf "$I"
mkdir -p "$R/lab/domu"; cp "$W/img/domu-initrd" "$R/lab/domu/initrd"; cp "$W/img/vmlinux" "$R/lab/domu/vmlinux"; cp "$W/img/vmlinuz" "$R/lab/domu/vmlinuz"
STAMP "overlay and initramfs ready"
rm -f "$W/img/rootfs.ext4"; truncate -s 1200M "$W/img/rootfs.ext4"
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum,^64bit -m 0 -d "$R" "$W/img/rootfs.ext4"
STAMP "done"; du -sm "$R" "$W"/img/*
