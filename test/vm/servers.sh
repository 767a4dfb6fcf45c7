# Sourced by package.sh: two servers that are virtual machines with systemd and the package to be tested, 10.99.0.1 and 10.99.0.2.
# Each has one disk with a write cache that is lost with the power (nbdkit's cache filter): what was not flushed is gone after
# power_cut. Commands go through a folder that all share ($share, /host there). Uses $work; servers_end ends everything.
servers=
share=$work/host
at_max=$((600 * ${SLOW:-1})) # seconds that one command may take

# servers_begin IMAGE NAME NAME: new servers from the image of a root disk.
servers_begin() {
	local n image=$1
	shift
	servers=$*
	mkdir -p "$share"
	for n; do cp --sparse=always "$image" "$work/$n.img"; done
}

number() { case " $servers" in *" $1 "*) echo 1 ;; *) echo 2 ;; esac; }

# switch_on NAME: `up` waits until it is up.
switch_on() {
	local n=$1
	rm -f "$share/$n/boot" "$work/$n.sock"
	nbdkit -f --exit-with-parent -U "$work/$n.sock" -P "$work/$n.disk" --filter=cache file "$work/$n.img" cache=writeback &
	disown # how it ends is nobody's news
	until_true 60 "the disk of $n is there" test -S "$work/$n.sock"
	# An emulated machine that gets little of a processor mistakes the speed of its TSC: its clock would run away.
	GUEST_APPEND="${GUEST_APPEND-clocksource=acpi_pm}" bash test/vm/guest.sh run -c 1 -m 768 -t $((3600 * ${SLOW:-1})) -r "nbd:unix:$work/$n.sock" -s "$share" -n "$work/link" -i "$(number "$n")" -p "$work/$n.pid" \
		-C "$work/$n.$((++boots)).console" test/vm/serve.sh "$n" >>"$work/$n.log" 2>&1 &
	echo $! >"$work/$n.run"
	disown
	until_true 60 "$n is switched on" on "$n"
}
boots=0
on() { kill -0 "$(cat "$work/$1.pid")"; }
gone() { ! kill -0 "$(cat "$work/$1.run")" 2>/dev/null; }

# up NAME: waits until it is up, and nothing that belongs to a boot has failed.
up() {
	local state
	until_true 600 "$1 boots" test -e "$share/$1/boot"
	state=$(at "$1" 'systemctl is-system-running --wait') || { echo "$1 is up, but $state" >&2; at "$1" 'systemctl --failed' >&2; return 1; }
}

# at NAME COMMAND: runs a shell command there, as root.
at() {
	local dir=$share/$1 boot end=$((SECONDS + at_max))
	boot=$(cat "$dir/boot")
	rm -f "$dir/rc"
	printf '%s\n' "$2" >"$dir/do.new" && mv "$dir/do.new" "$dir/do"
	until [ -e "$dir/rc" ]; do
		if gone "$1" || [ "$(cat "$dir/boot")" != "$boot" ] || [ $SECONDS -ge $end ]; then echo "$1 went away in: $2" >&2; return 1; fi
		sleep 0.1
	done
	cat "$dir/err" >&2
	cat "$dir/out"
	return "$(cat "$dir/rc")"
}

# reboot NAME COMMAND: gives the command, which reboots it, and waits until it is up again.
reboot() {
	local boot
	boot=$(cat "$share/$1/boot")
	at "$1" "$2" || :
	until_true 900 "$1 reboots" other_boot "$1" "$boot"
	up "$1"
}
other_boot() { [ "$(cat "$share/$1/boot")" != "$2" ]; }

# power_cut NAME...: all at once.
power_cut() {
	local n pids=
	for n; do pids+=" $(cat "$work/$n.pid") $(cat "$work/$n.disk")"; done
	kill -9 $pids
	for n; do until_true 60 "$n is off" gone "$n"; done
}

# off NAME: waits until it has switched itself off.
off() {
	until_true 600 "$1 is off" gone "$1"
	kill "$(cat "$work/$1.disk")"
}

servers_end() {
	local n
	for n in $servers; do
		for f in pid disk; do [ ! -e "$work/$n.$f" ] || kill -9 "$(cat "$work/$n.$f")" 2>/dev/null || :; done
		[ ! -e "$work/$n.run" ] || until_true 60 "$n is off" gone "$n" || :
	done
}
