#!/usr/bin/env bash
# Builds the package twice and compares, checks its units, installs it in a fresh Debian 12 (debootstrap), runs the demo
# there as a user would, and removes it again. Needs root and a Debian mirror; takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d /tmp/keelson-deb-XXXXXX)
root=$work/root
cleanup() {
	umount "$root/proc" 2>/dev/null || :
	rm -rf "$work"
}
trap cleanup EXIT
say() { printf '== %s\n' "$*"; }
need() { command -v "$1" >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2" >/dev/null; }; }
need debootstrap debootstrap
need systemd-analyze systemd

say "the same commit gives the same bytes"
arch=$(dpkg --print-architecture)
bash tools/deb.sh "$work/one" amd64 arm64
bash tools/deb.sh "$work/two" "$arch"
deb=$(echo "$work"/one/keelson_*_"$arch".deb)
cmp "$deb" "$work/two/$(basename "$deb")"

say "the binaries are static"
for a in amd64 arm64; do
	dpkg-deb -x "$work"/one/keelson_*_$a.deb "$work/$a"
	file "$work/$a/usr/bin/keelson" 2>/dev/null | grep -q 'statically linked' || { readelf -l "$work/$a/usr/bin/keelson" | grep -q INTERP && { echo "$a is not static"; exit 1; } || :; }
done

say "systemd finds nothing wrong with the units"
mkdir -p /usr/bin
installed=
[ -e /usr/bin/keelson ] || { ln -s "$work/$arch/usr/bin/keelson" /usr/bin/keelson; installed=yes; }
status=0
systemd-analyze verify packaging/*.service || status=$?
[ -z "$installed" ] || rm /usr/bin/keelson
[ $status = 0 ]

say "a fresh Debian 12"
mirror=$(awk '/^deb /{print $2; exit} /^URIs:/{print $2; exit}' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "${mirror:?no Debian mirror is configured here}" >"$work/debootstrap.log" 2>&1 ||
	{ tail -n 20 "$work/debootstrap.log"; exit 1; }
mount -t proc proc "$root/proc"
cp "$deb" "$root/tmp/"
inside() { chroot "$root" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
inside sh -c 'apt-get install -y --no-install-recommends /tmp/keelson_*.deb'
inside getent group keelson
inside keelson version
inside sh -c 'test -s /usr/share/man/man1/keelson.1.gz || test -e /etc/dpkg/dpkg.cfg.d/excludes'

say "the demo runs there"
inside keelson demo --dir /tmp/d --size 16MiB --detach
inside keelson switchover data --to b --yes --socket /tmp/d/a/agent.sock
inside keelson demo stop --dir /tmp/d

say "an upgrade, and a removal that keeps what a copy needs"
inside sh -c 'mkdir -p /var/lib/keelson && echo kept >/var/lib/keelson/witness'
inside sh -c 'dpkg -i /tmp/keelson_*.deb'
inside apt-get purge -y keelson
inside test -s /var/lib/keelson/witness
if inside sh -c 'command -v keelson'; then echo "keelson is still there"; exit 1; fi
say "all is well"
