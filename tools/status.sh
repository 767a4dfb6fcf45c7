# Sourced by tests with servers: waiting, and what a server's status says. Uses $work, a folder, and at, which runs a command at a server.

# until_true SECONDS WHAT COMMAND...: SLOW times as long, on a machine that has much else to do.
until_true() {
	local end=$((SECONDS + $1 * ${SLOW:-1})) what=$2 last=$work/last.$BASHPID
	shift 2
	until "$@" >"$last" 2>&1; do
		[ $SECONDS -lt $end ] || { echo "not within its time: $what" >&2; tail -n 30 "$last" >&2; return 1; }
		sleep 0.5
	done
}

# value NAME EXPRESSION: of the status that this server shows (s: all, v: the volume), in Python.
value() { at "$1" 'keelson status --json' | python3 -c "import json, sys; s = json.load(sys.stdin); v = s['volumes'][0]; print($2)"; }
is() { [ "$(value "$1" "$2")" = "$3" ]; }
mirroring() { is "$1" "all(m['state'] == 'Mirroring' for m in v['mirrors']) and len(v['mirrors'])" "${2:-2}"; } # SERVER [MIRRORS]
no_full_copy() { # at the source SERVER
	value "$1" "[(m['target'], m['resync'] and (m['resync']['kind'], m['resync']['bytes_sent'])) for m in v['mirrors']]"
	is "$1" "all(m['resync'] is None or m['resync']['kind'] in ('none', 'partial') for m in v['mirrors'])" True || die "a mirror began anew"
}
