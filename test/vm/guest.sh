#!/bin/bash
# guest.sh - build a small Debian 12 guest with real kernel block drivers (nbd, ublk, dm)
# and run one script in it under qemu, printing what the script prints.  Debian packages only.
#
#   guest.sh build                      build everything under $GUEST_DIR (once; then re-use it)
#   guest.sh system IMAGE               build IMAGE: the same with systemd as process 1, for -r
#   guest.sh run [options] SCRIPT [ARG...]
#       -k 612|61       kernel: bookworm-backports 6.12 (default; has ublk_drv) or stock bookworm 6.1; or $GUEST_KERNEL
#       -c N            vCPUs (default 2)         -m MIB   memory (default 3072)
#       -d FILE[:SIZE]  add a raw virtio disk (made when SIZE is given and it is missing);
#                       shows up as /dev/disk/by-id/virtio-dN, N from 0.  May be given again.
#       -s DIR          host folder shared as /host in the guest (9p; default: a fresh temporary one)
#       -n DIR          point-to-point link to a second guest through unix datagram sockets in DIR; nic 'link0'
#                       (either guest may start first, die and come back)
#       -i N            node number 1 or 2: link0 gets 10.99.0.N/24, hostname nodeN (default 1)
#       -r IMAGE        root disk, made by `guest.sh system`, or a server of one (nbd:unix:SOCKET); what is changed there stays. systemd
#                       starts the script beside its other services at every boot; the guest may reboot
#       -t SEC          kill the guest after SEC seconds (default 600)
#       -p FILE         write qemu's pid there (kill -9 it = power cut)
#       -C FILE         kernel console log (default $GUEST_DIR/console.PID.log)
#       -A ARGS         extra qemu arguments (split on blanks)
# The script runs as root with bash; cwd is /host.  The exit status of guest.sh run is the script's,
# 124 for a time-out, 125 when the guest died without reporting one.
set -euo pipefail
GUEST_DIR=${GUEST_DIR:-/var/tmp/keelson-guest}
# the mirror that this machine's apt already uses for the suite bookworm
MIRROR=${MIRROR:-$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' | sed -n 's#^bookworm \(.*\)/$#\1#p' | head -1)}
PKGS=nbd-client,fio,iproute2,iputils-ping,e2fsprogs,xfsprogs,btrfs-progs,kmod,util-linux,procps,busybox-static,fuse3,strace,psmisc,python3-minimal
# part of /lib/modules that goes into the image (dependencies of these are added by modules.dep)
KEEP='drivers/(block|md|nvme|virtio|vdpa|vhost|target)/|drivers/scsi/(scsi_debug|iscsi_tcp|libiscsi|scsi_transport_iscsi|sd_mod|virtio_scsi|sg|scsi_mod|scsi_common)|drivers/net/(veth|dummy|virtio_net|net_failover|macvlan|ifb|loopback|tun)|net/core/failover|net/(9p|sched|bridge|802|llc|ipv4|ipv6|netfilter|vmw_vsock|packet|unix)/|fs/(autofs|ext4|jbd2|xfs|btrfs|fuse|9p|overlayfs|netfs|fscache|configfs|nfs|dlm|ocfs2|lockd)|fs/mbcache|fs/fscache|^kernel/lib/|^kernel/crypto/|arch/x86/crypto|drivers/char/(virtio_console|hw_random)|drivers/cdrom|drivers/ata/(ata_generic|libata|ata_piix)|drivers/infiniband/core'

say() { echo "guest: $*" >&2; }
kdir() { case $1 in 61) echo "$GUEST_DIR/k61";; 612) echo "$GUEST_DIR/k612";; *) say "unknown kernel $1"; exit 2;; esac; }

need() { # host tools, by apt
  local miss=() p
  for p in "$@"; do dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'ok installed' || miss+=("$p"); done
  [ ${#miss[@]} = 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${miss[@]}" >&2
}

get_kernel() { # tag, suite
  local tag=$1 suite=$2 d t a pkg
  d=$(kdir "$tag"); [ -e "$d/ok" ] && return 0
  rm -rf "$d"; mkdir -p "$d/apt/lists/partial" "$d/apt/cache/archives/partial" "$d/x"
  case $suite in
    *-backports) echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $suite main";;
    *) echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $suite main"
       echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${MIRROR}-security $suite-security main";;
  esac > "$d/apt/sources.list"
  a=(-o Dir::Etc::sourcelist="$d/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
     -o Dir::State::lists="$d/apt/lists" -o Dir::Cache="$d/apt/cache" -o APT::Sandbox::User=root)
  apt-get "${a[@]}" -qq update >&2
  pkg=$(apt-cache "${a[@]}" depends linux-image-amd64 | sed -n 's/^ *Depends: //p' | head -1)
  say "kernel $tag: $pkg"
  ( cd "$d" && apt-get "${a[@]}" -qq download "$pkg" >&2 && dpkg -x ./*.deb x && rm -f ./*.deb )
  echo "${pkg#linux-image-}" > "$d/ver"
  rm -rf "$d/apt"; touch "$d/ok"
}

modules_into() { # kernel tag, destination root: copy the kept modules and all they depend on
  local d v src dst; d=$(kdir "$1"); v=$(cat "$d/ver"); src=$d/x/lib/modules/$v; dst=$2/lib/modules/$v
  [ -e "$src/modules.dep" ] || depmod -b "$d/x" "$v"
  mkdir -p "$dst"; cp "$src"/modules.{order,builtin,builtin.modinfo} "$dst/"
  awk -v keep="$KEEP" '{f=$1; sub(/:$/,"",f); if (f ~ keep) {print f; for(i=2;i<=NF;i++) print $i}}' "$src/modules.dep" | sort -u \
    | ( cd "$src" && cpio -pdm --quiet "$dst" )
  depmod -b "$2" "$v"
}

build() {
  local t0=$SECONDS tag v w
  need qemu-system-x86 qemu-utils mmdebstrap cpio kmod e2fsprogs xz-utils
  mkdir -p "$GUEST_DIR"
  get_kernel 61 bookworm; get_kernel 612 bookworm-backports
  say "kernels at $((SECONDS-t0)) s"
  local r=$GUEST_DIR/rootfs; rm -rf "$r"
  mmdebstrap --quiet --variant=minbase --include="$PKGS" bookworm "$r" >&2
  rm -rf "$r"/usr/share/{doc,man,locale,info} "$r"/var/cache/apt/* "$r"/var/lib/apt/lists/*
  say "debian root at $((SECONDS-t0)) s"
  for tag in 61 612; do modules_into $tag "$r"; done
  mkdir -p "$r/host"; echo guest > "$r/etc/hostname"; : > "$r/etc/fstab"
  cat > "$r/sbin/guest-init" <<'INIT'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p /run/lock /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
modprobe configfs 2>/dev/null; mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config 2>/dev/null
for w in $(cat /proc/cmdline); do case $w in guest.node=*) NODE=${w#*=};; guest.script=*) SCRIPT=${w#*=};; guest.dev=*) ;; esac; done
hostname "node${NODE:-1}"; echo "127.0.0.1 localhost node${NODE:-1}" > /etc/hosts
ip link set lo up
modprobe virtio_console; modprobe virtio_net 2>/dev/null
mkdir -p /dev/virtio-ports /dev/disk/by-id
for i in 1 2 3 4 5 6 7 8 9 10; do
  for p in /sys/class/virtio-ports/*/name; do [ -e "$p" ] && [ "$(cat "$p")" = out ] && OUT=/dev/$(basename "$(dirname "$p")"); done
  [ -n "$OUT" ] && break; sleep 0.2
done
for b in /sys/block/vd*; do s=$(cat $b/serial 2>/dev/null); [ -n "$s" ] && ln -sf ../../$(basename $b) /dev/disk/by-id/virtio-$s; done
n=$(ls /sys/class/net | grep -v -E '^(lo|sit0|dummy0)$' | head -1)
if [ -n "$n" ]; then ip link set "$n" name link0; ip addr add "10.99.0.${NODE:-1}/24" dev link0; ip link set link0 up; fi
cd /host
read -r up _ < /proc/uptime
[ -n "$OUT" ] && exec >"$OUT" 2>&1 </dev/null
echo "## guest up after $up s, $(uname -r), $(nproc) cpu"
mapfile -d '' -t ARGV < "/host/.args.${NODE:-1}" 2>/dev/null
bash "/host/$SCRIPT" "${ARGV[@]}"; rc=$?
read -r up _ < /proc/uptime
echo "## script rc $rc at $up s"
echo $rc > /host/.rc.${NODE:-1}; sync
busybox poweroff -f
INIT
  chmod 755 "$r/sbin/guest-init"
  rm -f "$GUEST_DIR/root.img"
  mke2fs -q -t ext4 -O ^has_journal -m 0 -L guestroot -d "$r" "$GUEST_DIR/root.img" 1600M
  say "root.img at $((SECONDS-t0)) s: $(du -m "$GUEST_DIR/root.img" | cut -f1) MiB used"
  for tag in 61 612; do
    w=$(mktemp -d "$GUEST_DIR/ird.XXXX"); v=$(cat "$(kdir $tag)/ver")
    mkdir -p "$w"/{bin,proc,sys,dev,new,mods}; cp "$r/bin/busybox" "$w/bin/"
    for m in virtio_pci virtio_blk ext4 crc32c_intel crc32c_generic 9pnet_virtio 9p; do
      modprobe -d "$r" -S "$v" --show-depends $m 2>/dev/null | awk '$1=="insmod"{print $2}'
    done | awk '!s[$0]++' > "$w/list"
    while read -r f; do b=$(basename "$f"); case $f in *.xz) xz -dc "$f" > "$w/mods/${b%.xz}"; echo "${b%.xz}";; *) cp "$f" "$w/mods/$b"; echo "$b";; esac; done < "$w/list" > "$w/mods/order"
    rm "$w/list"
    cat > "$w/init" <<'I0'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
while read -r m; do insmod /mods/$m 2>/dev/null; done < /mods/order
for i in 1 2 3 4 5 6 7 8 9; do for b in /sys/block/vd*; do [ "$(cat $b/serial 2>/dev/null)" = root ] && R=/dev/${b##*/}; done; [ -n "$R" ] && break; sleep 0.2; done
mount -t ext4 -o noatime $R /new || exec sh
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /new/host || echo no 9p
mount --move /proc /new/proc; mount --move /sys /new/sys; mount --move /dev /new/dev
exec switch_root /new /sbin/guest-init
I0
    chmod 755 "$w/init"
    ( cd "$w" && find . | cpio -o -H newc --quiet -R 0:0 ) > "$(kdir $tag)/initrd.cpio"
    rm -rf "$w"
  done
  say "built in $((SECONDS-t0)) s"
}

system() { # IMAGE
  local img=$1 r tag
  [ -e "$GUEST_DIR/root.img" ] || build
  r=$(mktemp -d "$GUEST_DIR/system.XXXX")
  mmdebstrap --quiet --variant=minbase --include="$PKGS,systemd-sysv,dbus,udev,ca-certificates" bookworm "$r" >&2
  rm -rf "$r"/usr/share/{doc,locale,info} "$r"/var/cache/apt/* "$r"/var/lib/apt/lists/*
  for tag in 61 612; do modules_into $tag "$r"; done
  mkdir -p "$r/host"; echo '127.0.0.1 localhost' > "$r/etc/hosts"; : > "$r/etc/fstab"
  rm -f "$r/etc/machine-id"; : > "$r/etc/machine-id"
  rm -f "$r/etc/hostname"
  printf '#!/bin/sh\nexec /lib/systemd/systemd\n' > "$r/sbin/guest-init"
  cat > "$r/sbin/guest-script" <<'S'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8
for w in $(cat /proc/cmdline); do case $w in guest.node=*) NODE=${w#*=};; guest.script=*) SCRIPT=${w#*=};; esac; done
modprobe virtio_console
for i in {1..50}; do
  for p in /sys/class/virtio-ports/*/name; do [ -e "$p" ] && [ "$(cat "$p")" = out ] && OUT=/dev/$(basename "$(dirname "$p")"); done
  [ -n "$OUT" ] && [ -e "$OUT" ] && break; sleep 0.2
done
exec >"$OUT" 2>&1 </dev/null
read -r up _ < /proc/uptime
echo "## guest up after $up s, $(uname -r), systemd"
cd /host
mapfile -d '' -t ARGV < "/host/.args.${NODE:-1}" 2>/dev/null
bash "/host/$SCRIPT" "${ARGV[@]}"; rc=$?
read -r up _ < /proc/uptime
echo "## script rc $rc at $up s"
[ "$(systemctl is-system-running)" != stopping ] || exit 0
echo $rc > /host/.rc.${NODE:-1}; sync
systemctl poweroff
S
  chmod 755 "$r/sbin/guest-init" "$r/sbin/guest-script"
  printf '[Unit]\nAfter=local-fs.target\n[Service]\nType=exec\nExecStart=/sbin/guest-script\n' > "$r/etc/systemd/system/guest-script.service"
  mkdir -p "$r/etc/systemd/system/multi-user.target.wants"; ln -s ../guest-script.service "$r/etc/systemd/system/multi-user.target.wants/"
  ln -sf /lib/systemd/system/multi-user.target "$r/etc/systemd/system/default.target"
  # what a guest for tests has no use for (there is no network, nor a terminal), and limits for one that is emulated
  for tag in apt-daily{,-upgrade}.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer fstrim.timer systemd-tmpfiles-clean.timer systemd-binfmt.service getty.target; do
    ln -sf /dev/null "$r/etc/systemd/system/$tag"
  done
  mkdir -p "$r/etc/systemd/system.conf.d" "$r/etc/modprobe.d"
  printf '[Manager]\nDefaultTimeoutStartSec=15min\nDefaultTimeoutStopSec=15min\nDefaultDeviceTimeoutSec=15min\n' > "$r/etc/systemd/system.conf.d/slow.conf"
  printf 'blacklist %s\n' floppy ata_piix ata_generic > "$r/etc/modprobe.d/guest.conf"
  rm -f "$img"; mke2fs -q -t ext4 -m 0 -L guestroot -d "$r" "$img" 2G
  rm -rf "$r"; say "$img is made"
}

run() {
  local k=${GUEST_KERNEL:-612} c=2 m=3072 disks=() share= link= node=1 tmo=600 pidf= con= extra= root=$GUEST_DIR/root.img,format=raw,snapshot=on,cache=unsafe reset=-no-reboot o
  while getopts k:c:m:d:s:n:i:t:p:C:A:r: o; do case $o in
    k) k=$OPTARG;; c) c=$OPTARG;; m) m=$OPTARG;; d) disks+=("$OPTARG");; s) share=$OPTARG;;
    r) root=$OPTARG,format=raw,cache=none reset=;; n) link=$OPTARG;; i) node=$OPTARG;; t) tmo=$OPTARG;; p) pidf=$OPTARG;; C) con=$OPTARG;; A) extra=$OPTARG;; *) exit 2;; esac; done
  shift $((OPTIND-1)); local script=$1; shift
  [ -e "$GUEST_DIR/root.img" ] || build
  local own=; [ -n "$share" ] || { share=$(mktemp -d "$GUEST_DIR/share.XXXX"); own=1; }
  con=${con:-$GUEST_DIR/console.$$.log}
  cp "$script" "$share/.script.$node"; : > "$share/.args.$node"; [ $# = 0 ] || printf '%s\0' "$@" > "$share/.args.$node"
  rm -f "$share/.rc.$node"
  local q=(qemu-system-x86_64 -accel "${GUEST_ACCEL:-tcg,thread=multi,tb-size=512}" -cpu "${GUEST_CPU:-max,la57=off}" -machine ${GUEST_MACHINE:-pc,hpet=off} -smp "$c" -m "$m"
    -nodefaults -display none $reset -monitor none -serial "file:$con" -rtc base=utc
    -kernel "$(echo "$(kdir "$k")"/x/boot/vmlinuz-*)" -initrd "$(kdir "$k")/initrd.cpio"
    -append "console=ttyS0 ${GUEST_LOG:-quiet loglevel=4} panic=-1 mitigations=off nokaslr audit=0 nmi_watchdog=0 tsc=reliable clocksource=tsc lpj=4000000 no_timer_check random.trust_cpu=on guest.node=$node guest.script=.script.$node ${GUEST_APPEND:-}"
    -drive "if=none,id=root,file=$root" -device virtio-blk-pci,drive=root,serial=root
    -fsdev "local,id=h,path=$share,security_model=none,multidevs=remap" -device virtio-9p-pci,fsdev=h,mount_tag=host
    -device virtio-serial-pci -chardev stdio,id=o,signal=off -device virtserialport,chardev=o,name=out
    -device virtio-rng-pci)
  local i=0 d f; for d in ${disks[@]+"${disks[@]}"}; do f=${d%%:*}
    [ "$f" = "$d" ] || [ -e "$f" ] || truncate -s "${d#*:}" "$f"
    q+=(-drive "if=none,id=d$i,file=$f,format=raw,cache=none,aio=threads,discard=unmap" -device "virtio-blk-pci,drive=d$i,serial=d$i"); i=$((i+1)); done
  if [ -n "$link" ]; then mkdir -p "$link"; rm -f "$link/$node"
    q+=(-netdev "dgram,id=n0,local.type=unix,local.path=$link/$node,remote.type=unix,remote.path=$link/$((3-node))"
        -device "virtio-net-pci,netdev=n0,mac=52:54:00:99:00:0$node"); fi
  [ -z "$extra" ] || q+=($extra)
  local rc=0 p w
  # qemu's stdio chardev closes the port when stdin ends, and the guest's writes then hang: give it a fifo that never ends
  local ff; ff=$(mktemp -u "$GUEST_DIR/fifo.XXXX"); mkfifo "$ff"; exec 9<>"$ff"; rm -f "$ff"
  "${q[@]}" <&9 9>&- & p=$!
  [ -z "$pidf" ] || echo $p > "$pidf"
  # the watchdog must not hold our stdout open, or `guest.sh run | tail` would not end
  ( s=0; while [ $s -lt "$tmo" ]; do sleep 1; s=$((s+1)); kill -0 $p 2>/dev/null || exit 0; done; kill -9 $p; : > "$share/.timeout.$node" ) >/dev/null 2>&1 9>&- & w=$!
  wait $p || rc=$?
  kill $w 2>/dev/null || :
  if [ -e "$share/.rc.$node" ]; then rc=$(cat "$share/.rc.$node")
  elif [ -e "$share/.timeout.$node" ]; then rc=124; say "timed out after $tmo s; console: $con"; tail -5 "$con" >&2
  else rc=125; say "guest ended without a status (qemu rc $rc); console: $con"; tail -5 "$con" >&2; fi
  [ -z "$own" ] || rm -rf "$share"
  return $rc
}

cmd=${1:-}; shift || :
case $cmd in build) build;; system) system "$@";; run) run "$@";; *) sed -n '2,28p' "$0"; exit 2;; esac
