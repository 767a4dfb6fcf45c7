#!/usr/bin/env bash
# Builds the Debian package twice and has two servers live with it that are virtual machines with systemd: install, a volume that
# systemd mounts, and then, each time under load, a reboot and a power cut of its source with a loop device, an upgrade of both, a switchover,
# a reboot and a power cut of both with a device of the kernel's NBD client; remove, purge. After each step the services are back by
# themselves and everything that fsync had said is there. README.md tells more.
set -euo pipefail
cd "$(dirname "$0")/../.."
export GUEST_DIR=${GUEST_DIR:-/var/tmp/keelson-guest}
mkdir -p "$GUEST_DIR"
work=$(mktemp -d "$GUEST_DIR/package.XXXX")
. tools/status.sh
. test/vm/servers.sh
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
die() { echo "$*" >&2; exit 1; }
cleanup() {
	local status=$? n
	trap - EXIT
	set +e
	if [ $status != 0 ]; then
		at_max=60
		for n in $servers; do
			echo "== $n"
			tail -n 5 "$work/$n.log" "$work/$n".*.console
			gone "$n" || at "$n" 'keelson status; systemctl --failed; systemctl list-jobs; journalctl -n 120 --no-pager -o short-monotonic; dmesg | tail -n 15'
		done
		echo FAILED
	fi
	servers_end
	[ -n "${KEEP:-}" ] || rm -rf "$work"
	exit $status
}
trap cleanup EXIT
trap 'exit 1' INT TERM
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR

# calm NAME [BOOT]: nothing has failed there, and nobody complains, in this boot or in BOOT.
calm() {
	at "$1" "
		[ -z \"\$(systemctl --failed --no-legend)\" ] || { systemctl --failed; exit 1; }
		journalctl -b ${2:-0} -q --no-pager >/tmp/journal
		# The emulated network card complains while nobody is at the other end of its cable.
		if grep -E ' (systemd\[1\]|kernel|keelson\[[0-9]*\]): ' /tmp/journal | grep -v 'NETDEV WATCHDOG' | grep -iE 'timed out|ordering cycle|failed to (start|stop|mount|unmount)|stuck request'; then exit 1; fi
		journalctl -b ${2:-0} -q --no-pager -p warning _SYSTEMD_UNIT=keelson.service + UNIT=keelson.service + UNIT=keelson-mount@data.service + UNIT=keelson-volume@data.target >/tmp/said || : # none
		grep level=ERROR /tmp/journal >>/tmp/said || :
		if [ -s /tmp/said ]; then cat /tmp/said; exit 1; fi" || die "$1 is not calm"
}
listed() { wc -l <"$share/sums"; }
more() { [ "$(listed)" -gt "$1" ]; }
works() { until_true 300 "files are written at $1" more "$(($(listed) + ${2:-20}))"; }
# all_there SOURCE: the units are active there by themselves, every file is what was listed, mirrors are back without a full copy.
all_there() {
	until_true 600 "the volume is in use at $1" at "$1" 'for unit in keelson keelson-volume@data.target keelson-mount@data writer; do systemctl is-active $unit; done'
	at "$1" 'findmnt -no SOURCE,FSTYPE,OPTIONS /srv/data; keelson volume show data | grep device'
	at "$1" 'cp /host/sums /tmp/sums; cd /srv/data; sha256sum --quiet -c /tmp/sums; echo "$(wc -l </tmp/sums) files are what fsync said"' || die "files are not what fsync said"
	works "$1"
	until_true 600 "both copies hold everything" is "$1" "(v['mirrors'][0]['state'], len(v['in_sync']))" "('Mirroring', 2)"
	no_full_copy "$1"
}
clean() { at "$1" 'systemctl stop keelson-volume@data.target; e2fsck -fn /dev/keelson/data' || die "the file system is not clean"; }

# An emulated machine, on processors that others use too, is slow.
patient="sed -i -E 's/^# (sync-timeout|hold-max|join-wait|dead-after|handshake-max) = .*/\\1 = \"1m\"/' /etc/keelson/keelson.toml"

prepare() { # NAME
	up "$1"
	at "$1" "echo $1 >/etc/hostname; hostname $1; echo 127.0.1.1 $1 >>/etc/hosts
		printf '[Match]\nType=ether\n[Network]\nAddress=10.99.0.$(number "$1")/24\nLinkLocalAddressing=no\n' >/etc/systemd/network/link.network
		systemctl -q enable --now systemd-networkd
		apt install -y /host/old/keelson_*.deb | tail -n 3
		systemd-analyze verify --man=no keelson.service keelson-volume@data.target keelson-mount@data.service >/tmp/verify 2>&1; cat /tmp/verify; [ ! -s /tmp/verify ]
		systemctl is-enabled keelson; ! systemctl is-active keelson"
}

install() {
	say "install and configure"
	switch_on a
	switch_on b
	prepare a &
	local other=$!
	prepare b
	wait $other
	at a "keelson node init --address 10.99.0.1:7401
		sed -i 's/^# attach = .*/attach = \"loop\"/' /etc/keelson/keelson.toml
		$patient; systemctl start keelson"
	at b "keelson node join '$(at a 'keelson node invite b')' --address 10.99.0.2:7401
		$patient; systemctl start keelson"
	until_true 300 "they reach each other" at a "keelson status | grep 'servers a b reachable'"
	at a 'keelson volume create data --source a:/srv/data.img --target b:/srv/data.img --size 256MiB; keelson volume attach data; mkfs.ext4 -q /dev/keelson/data'
	for n in a b; do
		at $n 'echo MOUNT=/srv/data >/etc/keelson/mount/data.conf; systemctl enable keelson-mount@data
			cp /host/writer.service /etc/systemd/system/; systemctl daemon-reload; systemctl add-wants keelson-volume@data.target writer.service'
	done
	at a 'systemctl start keelson-mount@data writer'
	all_there a
	at a 'keelson check --reboot' && die "the source of a volume in use may be rebooted"
	calm a
	calm b
}

reboots() { # SOURCE OTHER
	say "$1, the source, reboots under load"
	works "$1"
	reboot "$1" 'systemctl --no-block reboot'
	all_there "$1"
	calm "$1" -1
	calm "$1"
	at "$1" 'journalctl -b -1 -q --no-pager -u keelson -o cat | tail -n 4'
}

cuts() { # SOURCE [OTHER]: that lose their power
	say "$* lose their power under load"
	works "$1"
	power_cut "$@"
	local n
	for n; do switch_on "$n"; done
	for n; do up "$n"; done
	all_there "$1"
	for n; do calm "$n"; done
	say "the file system is clean"
	clean "$1"
	at "$1" 'systemctl start keelson-volume@data.target'
	all_there "$1"
}

upgrade() {
	say "upgrade"
	local n
	for n in b a; do
		at $n 'apt install -y /host/new/keelson_*.deb | tail -n 3; systemctl restart keelson'
		until_true 300 "$n runs the new version" is $n "s['version']" "$(dpkg-deb -f "$share"/new/keelson_*.deb Version)"
		until_true 300 "mirroring again" mirroring a 1
	done
	all_there a
}

switch_over() {
	say "switch over to b"
	at a 'systemctl stop keelson-volume@data.target; keelson switchover data --to b --yes'
	all_there b
	at b 'readlink /dev/keelson/data' | grep -q /dev/nbd || die "auto took no kernel nbd"
}

leave() {
	say "the copies are the same, and outlive the package"
	clean b
	at b 'systemctl stop keelson'
	at a 'systemctl stop keelson'
	local sum n
	sum=$(at a 'sha256sum /srv/data.img')
	[ "$(at b 'sha256sum /srv/data.img')" = "$sum" ] || die "the copies differ"
	for n in a b; do
		at $n 'apt remove -y keelson | tail -n 3; [ -e /etc/keelson/keelson.toml ]; apt purge -y keelson | tail -n 5; ! command -v keelson; [ ! -e /etc/keelson/keelson.toml ]'
		[ "$(at $n 'sha256sum /srv/data.img')" = "$sum" ] || die "the data are gone with the package"
		at $n '[ -z "$(systemctl --failed --no-legend)" ]; systemctl --no-block poweroff'
		off $n
	done
}

[ -e "$GUEST_DIR/system.img" ] || bash test/vm/guest.sh system "$GUEST_DIR/system.img"
command -v nbdkit >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nbdkit >/dev/null; }
servers_begin "$GUEST_DIR/system.img" a b
say "build"
bash tools/deb.sh "$share/old" amd64
VERSION=$(dpkg-deb -f "$share"/old/keelson_*.deb Version)+newer bash tools/deb.sh "$share/new" amd64
cp test/vm/write.py "$share/"
printf '[Unit]\nBindsTo=keelson-mount@data.service\nAfter=keelson-mount@data.service\n[Service]\nExecStart=/usr/bin/python3 /host/write.py /srv/data /host/sums\n' >"$share/writer.service"
install
reboots a
cuts a
upgrade
switch_over
reboots b
cuts b a
leave
say PASSED
