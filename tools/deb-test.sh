#!/usr/bin/env bash
# Builds the package twice and compares, looks at what is in it, installs it in a fresh Debian 12, and then has three servers with systemd
# (containers) live with it, by the commands of docs/admin/package.md as they are printed: install, cluster, volume, upgrade from an older version, a mount and a
# data base that follow the source, reboot, power cut, remove, purge. Needs root and a Debian mirror; takes some minutes.
# Environment: BASE, a folder with a Debian 12 (made once with: debootstrap --variant=minbase --include="$INCLUDE" bookworm BASE) instead of a fresh one; DEBS, a
# folder with packages that are built already (old/ and new/); OLD, the commit of the older version.
set -euo pipefail
cd "$(dirname "$0")/.."
INCLUDE=ca-certificates,systemd-sysv,dbus,e2fsprogs,bash-completion
OLD=${OLD:-$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD~ 2>/dev/null || echo bde2b17)} # before there were releases
work=$(mktemp -d /var/tmp/keelson-deb-XXXXXX)
. tools/status.sh
. tools/deb-servers.sh
cleanup() {
	local status=$?
	[ $status = 0 ] || for n in $servers; do echo "== the journal of $n" && at "$n" 'journalctl -n 60 --no-pager -o short-monotonic' 2>/dev/null || :; done
	servers_end
	umount "$work/chroot/root/proc" "$work/chroot/root" 2>/dev/null || :
	[ ! -d "$work/source" ] || git worktree remove --force "$work/source"
	rm -rf "$work"
}
trap cleanup EXIT
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
die() { echo "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2" >/dev/null; }; }
need debootstrap debootstrap
need systemd-analyze systemd
need systemd-nspawn systemd-container
need lintian lintian
need qemu-aarch64-static qemu-user-static
need file file
arch=$(dpkg --print-architecture)

# block NAME: the commands of that name in the page.
block() { awk -v name="$1" '$0 == "<!-- deb-test: " name " -->" { found = 1 } found && /^```$/ { exit } found && shell { print } found && /^```sh$/ { shell = 1 }' docs/admin/package.md; }

# doc NAME SERVER [TOKEN]: runs them there.
doc() {
	local text
	text=$(block "$1")
	[ -n "$text" ] || die "docs/admin/package.md has no commands called $1"
	printf '%s' "$text" | sed "s/^/$2# /"
	echo
	at "$2" "${text//TOKEN/${3:-TOKEN}}"
}

packages() {
	say "the same commit gives the same bytes, in whatever folder"
	bash tools/deb.sh "$work/debs/new" amd64 arm64
	git worktree add -q --detach "$work/source" HEAD
	cp -a tools/deb.sh "$work/source/tools/" && cp -a packaging "$work/source/"
	(cd "$work/source" && bash tools/deb.sh "$work/debs/again" amd64 arm64)
	for deb in "$work"/debs/new/*.deb; do cmp "$deb" "$work/debs/again/$(basename "$deb")"; done
	say "an older version: $OLD"
	git -C "$work/source" checkout -q --force --detach "$OLD"
	SOURCE=$work/source VERSION=0.0~0old bash tools/deb.sh "$work/debs/old" "$arch"
	DEBS=$work/debs
}

content() {
	say "the binaries are static, and run"
	for a in amd64 arm64; do
		dpkg-deb -x "$DEBS"/new/keelson_*_$a.deb "$work/$a"
		file "$work/$a/usr/bin/keelson"
		file "$work/$a/usr/bin/keelson" | grep -q 'statically linked'
		if readelf -lW "$work/$a/usr/bin/keelson" | grep -q INTERP; then die "$a has an interpreter"; fi
	done
	"$work/amd64/usr/bin/keelson" version
	[ "$(qemu-aarch64-static "$work/arm64/usr/bin/keelson" version)" = "$("$work/amd64/usr/bin/keelson" version)" ]
	say "lintian finds nothing"
	lintian --allow-root --fail-on error,warning "$DEBS"/new/*_"$arch".deb
}

inside() { chroot "$work/chroot/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

# A system that does not run: an image that is being made.
image() {
	say "apt install in a fresh Debian 12 that does not run"
	mkdir -p "$work"/chroot/{up,tmp,root}
	mount -t overlay -o "lowerdir=$base,upperdir=$work/chroot/up,workdir=$work/chroot/tmp" overlay "$work/chroot/root"
	mount -t proc proc "$work/chroot/root/proc"
	cp "$DEBS"/new/keelson_*_"$arch".deb "$work/chroot/root/tmp/"
	inside sh -c 'cd /tmp && apt-get install -y ./keelson_*.deb'
	inside keelson version
	inside getent group keelson
	[ "$(inside stat -c '%a %U' /etc/keelson /var/lib/keelson /usr/bin/keelson | tr '\n' ' ')" = "755 root 700 root 755 root " ]
	inside test -L /etc/systemd/system/multi-user.target.wants/keelson.service
	inside sh -c '[ -z "$(ls -d /etc/systemd/system/*/keelson-mount* /run/keelson 2>/dev/null)" ]'
	say "manual pages and completion are those of its own commands"
	for page in keelson keelson-volume-attach keelson-switchover keelson-check; do gzip -t "$work/chroot/root/usr/share/man/man1/$page.1.gz"; done
	zcat "$work/chroot/root/usr/share/man/man1/keelson-switchover.1.gz" | grep -q -- '--unmount'
	inside bash -ec '. /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/keelson
		compopt() { :; } # only within a completion
		COMP_LINE="keelson volume at" COMP_POINT=17 COMP_WORDS=(keelson volume at) COMP_CWORD=2; __start_keelson; echo "${COMPREPLY[*]}"' | grep -q '^attach'
	say "systemd finds nothing wrong with the units, in an offline system"
	cp /dev/null "$work/chroot/root/etc/keelson/mount/data.conf"
	systemd-analyze verify --root="$work/chroot/root" --man=no keelson.service keelson-volume@data.target keelson-mount@data.service 2>&1 | tee "$work/verify"
	[ ! -s "$work/verify" ]
	inside rm /etc/keelson/mount/data.conf
	say "remove and purge leave a system without it"
	inside apt-get purge -y keelson
	inside sh -c '! command -v keelson && [ -z "$(ls -d /etc/keelson /var/lib/keelson /lib/systemd/system/keelson* /etc/systemd/system/*/keelson* 2>/dev/null)" ]'
	umount "$work/chroot/root/proc" "$work/chroot/root"
}

install_and_make() {
	say "install the older version, make a cluster and a volume"
	for n in a b c; do
		cp "$DEBS"/old/keelson_*_"$arch".deb "$work/$n/root/root/"
		boot $n
		doc install $n
		at $n 'systemctl is-enabled keelson; ! systemctl is-active keelson' # it waits for a configuration
	done
	doc init a
	doc join-b b "$(at a 'keelson node invite b')"
	at c "keelson node join $(at a 'keelson node invite c') --address 10.0.0.3:7401; systemctl start keelson"
	doc create a
	until_true 60 "mirroring" mirroring a
	at a 'mkfs.ext4 -q /dev/keelson/data; mkdir /srv/data; mount /dev/keelson/data /srv/data; cp -r /etc /srv/data/; sync -f /srv/data; umount /srv/data'
	[ "$(at a 'stat -c "%a %G" /run/keelson/agent.sock')" = "660 keelson" ]
	[ "$(at a 'stat -c "%a" /etc/keelson/node.key /var/lib/keelson /etc/keelson/keelson.toml | tr "\n" " "')" = "600 700 600 " ]
}

upgrade() {
	say "upgrade, server by server"
	local n before
	for n in b c a; do
		rm "$work/$n/root/root/"*.deb
		cp "$DEBS"/new/keelson_*_"$arch".deb "$work/$n/root/root/"
		before=$(at $n 'find /etc/keelson -type f | sort | xargs sha256sum')
		doc upgrade $n
		until_true 120 "$n runs the new version" is $n "s['version']" "$(dpkg-deb -f "$DEBS"/new/keelson_*_"$arch".deb Version)"
		until_true 120 "mirroring again" mirroring a
		no_full_copy a
		[ "$(at $n 'find /etc/keelson -type f | sort | xargs sha256sum')" = "$before" ] || die "the configuration changed"
	done
	at a 'mkdir -p /mnt/x; mount /dev/keelson/data /mnt/x; diff -r --no-dereference /etc /mnt/x/etc | grep -v "^Only in" && exit 1; umount /mnt/x'
}

# What stands for the data base notes each number that is durable, outside of the volume.
database() {
	cat >"$work/$1/root/etc/systemd/system/postgresql@.service" <<'END'
[Unit]
Description=Stands for a data base
[Service]
ExecStart=/bin/sh -ec 'mountpoint -q /srv/data; touch /srv/data/log; n=$$(wc -l </srv/data/log); while :; do n=$$((n + 1)); echo $$n >>/srv/data/log; sync -d /srv/data/log; echo $$n >/var/tmp/answered.new; mv /var/tmp/answered.new /var/tmp/answered; sleep 0.05; done'
END
}
writes() { local n; n=$(at "$1" 'cat /var/tmp/answered || echo 0'); until_true 60 "the data base at $1 writes" later "$1" "$n"; }
later() { [ "$(at "$1" 'cat /var/tmp/answered')" -gt "$2" ]; }
# holds SERVER NUMBER: the log is whole up to that number at least.
holds() { at "$1" "cp /srv/data/log /tmp/log; seq \$(wc -l </tmp/log) | cmp - /tmp/log; [ \$(wc -l </tmp/log) -ge $2 ]"; }

follow() {
	say "a mount and a data base that follow the source"
	for n in a b c; do
		database $n
		doc mount $n
		doc postgresql $n
	done
	at b 'systemctl is-active keelson-volume@data.target keelson-mount@data postgresql@15-main' && die "they are active at a target"
	doc begin a
	writes a
	say "this server must not be switched off"
	until_true 30 "logind knows" at a 'systemd-inhibit --list | grep Keelson'
	at a 'systemd-inhibit --list'
	local status=0
	doc check a || status=$?
	[ $status = 3 ] || die "check --reboot: exit code $status"
	doc reboot a && die "the reboot was not refused"
	say "switch over"
	local answered
	at a 'keelson switchover data --to b --yes' && die "a data base is at work, and it was switched over"
	doc switchover a
	answered=$(at a 'cat /var/tmp/answered')
	until_true 60 "it goes on at b" writes b
	holds b "$answered"
	at a 'systemctl is-active keelson-volume@data.target keelson-mount@data postgresql@15-main' && die "they are active at a, which is no source"
	until_true 60 "mirroring" mirroring b
}

lives() {
	say "b is rebooted although it holds the volume"
	local answered
	at b 'systemctl --no-block reboot -i' || :
	rebooted b
	until_true 120 "the data base at b is back" at b 'systemctl is-active postgresql@15-main'
	answered=$(at b 'cat /var/tmp/answered')
	writes b
	holds b "$answered"
	until_true 120 "mirroring" mirroring b
	no_full_copy b
	at b 'journalctl -b -1 -u keelson | tail -n 20; ! journalctl -b -1 | grep -i "timed out\|ordering cycle"'
	say "b loses its power"
	cut b
	answered=$(cat "$work/b/root/var/tmp/answered")
	boot b
	until_true 120 "the data base at b is back" at b 'systemctl is-active postgresql@15-main'
	holds b "$answered"
	writes b
	until_true 120 "mirroring" mirroring b
	no_full_copy b
	say "its agent is killed"
	answered=$(at b 'cat /var/tmp/answered; systemctl kill -s KILL keelson' | tail -n 1)
	until_true 120 "the data base at b is back" at b 'for unit in keelson keelson-volume@data.target keelson-mount@data postgresql@15-main; do systemctl is-active $unit; done'
	writes b
	holds b "$answered"
	until_true 120 "mirroring" mirroring b
	no_full_copy b
}

leave() {
	say "remove, install, remove, purge"
	local before
	before=$(at c 'systemctl stop keelson; sha256sum /srv/data.img; find /var/lib/keelson /etc/keelson -type f | sort')
	doc remove c
	at c '! command -v keelson && [ -z "$(ls /lib/systemd/system/keelson* /run/keelson 2>/dev/null)" ]'
	[ "$(at c 'sha256sum /srv/data.img; find /var/lib/keelson /etc/keelson -type f | sort')" = "$before" ] || die "a removal took something away"
	at c 'apt install ./keelson_*.deb; systemctl start keelson'
	until_true 120 "mirroring" mirroring b
	no_full_copy b
	doc remove c
	before=$(at c 'sha256sum /srv/data.img; find /var/lib/keelson -type f | sort; ls /etc/keelson/*.key')
	at c 'apt purge keelson'
	[ "$(at c 'sha256sum /srv/data.img; find /var/lib/keelson -type f | sort; ls /etc/keelson/*.key')" = "$before" ] || die "a purge took data away"
	at c '[ -z "$(ls -d /etc/keelson/keelson.toml /etc/keelson/mount 2>/dev/null)" ]; getent group keelson'
	writes b
	say "all are switched off"
	for n in a b; do at $n 'systemctl --no-block poweroff -i' || :; done
	off a
	off b
}

[ -n "${DEBS:-}" ] || packages
content
base=${BASE:-}
if [ -z "$base" ]; then
	say "a fresh Debian 12"
	mirror=$(awk '/^deb /{print $2; exit} /^URIs:/{print $2; exit}' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
	base=$work/base
	debootstrap --variant=minbase --include=$INCLUDE bookworm "$base" "${mirror:?no Debian mirror is configured here}" >"$work/debootstrap.log" 2>&1 ||
		{ tail -n 20 "$work/debootstrap.log"; exit 1; }
fi
image
servers_begin a b c
install_and_make
upgrade
follow
lives
leave
say "all is well"
