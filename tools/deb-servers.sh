# Sourced by deb-test.sh: servers to install a package on. Each is a container of systemd-nspawn that boots systemd, on an overlay of
# one base system, with a network of its own in which the servers are 10.0.0.1, 10.0.0.2, ...
# Uses $work and $base, and status.sh; every mount, namespace and group of processes made here is undone by servers_end.

servers=
tag=kdt$$
booted_by_systemd() { [ -d /run/systemd/system ]; }

# servers_begin NAME...
servers_begin() {
	local n i=0
	servers=$*
	ip netns add $tag-net
	ip -n $tag-net link add br0 type bridge
	ip -n $tag-net link set br0 up
	for n; do
		i=$((i + 1))
		mkdir -p "$work/$n/up" "$work/$n/tmp" "$work/$n/root"
		mount -t overlay -o "lowerdir=$base,upperdir=$work/$n/up,workdir=$work/$n/tmp" overlay "$work/$n/root"
		echo "$n" >"$work/$n/root/etc/hostname"
		# The kernel's loop devices are made outside of the containers.
		for k in $(seq 0 31); do echo "b /dev/loop$k 0660 root disk - 7:$k"; done >"$work/$n/root/etc/tmpfiles.d/loop.conf"
		echo 'APT::Get::Assume-Yes "true";' >"$work/$n/root/etc/apt/apt.conf.d/99yes"
		ip netns add "$tag-$n"
		ip -n $tag-net link add "p$i" type veth peer name eth0 netns "$tag-$n"
		ip -n $tag-net link set "p$i" master br0 up
		ip -n "$tag-$n" addr add "10.0.0.$i/24" dev eth0
		ip -n "$tag-$n" link set eth0 up
		ip -n "$tag-$n" link set lo up
	done
}

# boot NAME: switches the server on and waits until it is up.
boot() {
	local n=$1 own=
	if ! booted_by_systemd; then # there is nobody who would give the container a group of processes
		own="--keep-unit"
		for h in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do [ ! -e $h/cgroup.procs ] || mkdir -p "$h/$tag-$n"; done
	fi
	(
		for h in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do [ ! -d "$h/$tag-$n" ] || echo $BASHPID >"$h/$tag-$n/cgroup.procs"; done
		exec systemd-nspawn -q --register=no $own -D "$work/$n/root" -M "$tag-$n" --hostname="$n" --network-namespace-path="/run/netns/$tag-$n" \
			--bind=/dev/fuse --bind=/dev/loop-control --capability=all --console=pipe --kill-signal=SIGRTMIN+3 -b </dev/null >>"$work/$n.console" 2>&1
	) &
	echo $! >"$work/$n.pid"
	up "$n"
}

leader() { pgrep -P "$(cat "$work/$1.pid")" | head -n 1; }
up() { until_true 180 "$1 is up" at "$1" 'case $(systemctl is-system-running) in running | degraded) ;; *) false ;; esac'; }

# at NAME COMMAND: runs a shell command there.
at() {
	local pid
	pid=$(leader "$1")
	[ -n "$pid" ] && nsenter -t "$pid" -m -u -i -n -p -r -w -- /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive sh -ec "cd /root; $2" </dev/null
}

# off NAME: waits until the server has switched itself off.
off() { until_true 300 "$1 is off" gone "$1"; }
gone() { ! kill -0 "$(cat "$work/$1.pid")" 2>/dev/null; }

# rebooted NAME: waits until a server that reboots is up again.
rebooted() {
	booted_by_systemd || { off "$1" && boot "$1"; } # otherwise the container's manager does it
	up "$1"
}

# cut NAME: takes the power away.
cut() {
	kill_server "$1"
	off "$1"
}

# A container's end, unlike a machine's, unmounts what is mounted in it: the agent may be its last process, and would wait in its
# own end for a device that it serves itself. So what it serves is ended from outside.
kill_server() {
	local pid connections
	pid=$(leader "$1")
	[ -n "$pid" ] || return 0
	connections=$(awk '/ - fuse\.keelson / { split($3, device, ":"); print device[2] }' "/proc/$pid/mountinfo")
	kill -9 "$pid"
	mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections
	for c in $connections; do
		[ ! -e "/sys/fs/fuse/connections/$c/abort" ] || echo 1 >"/sys/fs/fuse/connections/$c/abort"
	done
}

servers_end() {
	local n h
	for n in $servers; do
		if [ -e "$work/$n.pid" ] && ! gone "$n"; then
			kill_server "$n" || :
			until_true 60 "$n is gone" gone "$n" || kill -9 "$(cat "$work/$n.pid")" || :
		fi
		umount "$work/$n/root" 2>/dev/null || :
		ip netns del "$tag-$n" 2>/dev/null || :
		for h in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
			[ ! -d "$h/$tag-$n" ] || find "$h/$tag-$n" -depth -type d -exec rmdir {} + 2>/dev/null || :
		done
	done
	ip netns del $tag-net 2>/dev/null || :
}
