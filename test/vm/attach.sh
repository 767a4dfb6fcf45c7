#!/bin/bash
# Runs INSIDE the guest: three agents in network namespaces, delay and loss between them, a file system on the kernel's own NBD
# client through the restart of an agent, a planned switchover and a death. The first thing that is not as it has to be ends it.
set -euo pipefail
base=/run/k
say() { read -r up _ </proc/uptime; echo "[$up] $*"; }
fail() { # with what the agents said and were at
	set +e; trap - ERR; say "FAILED: $*"; for n in a b c; do echo "--- $n"; tail -40 $base/$n.log; k $n status | tail -25; kill -QUIT "$(cat $base/$n/agent.pid)"; done 2>&1
	sleep 5; for n in a b c; do echo "--- $n: goroutines"; sed -n '/^SIGQUIT/,$p' $base/$n.log; done; dmesg | tail -40; exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
waitfor() { # SECONDS COMMAND: until it succeeds
	local end=$((SECONDS + 4 * $1)); shift # emulation is slow
	until eval "$*" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "not in time: $*"; sleep 0.2; done
}
k() { local n=$1; shift; KEELSON_SOCKET=$base/$n/agent.sock timeout 400 $base/keelson "$@" --timeout 360s; }
start() { nsenter --net=/run/netns/$1 $base/keelson agent --config $base/$1/keelson.toml >>$base/$1.log 2>&1 </dev/null & }
die() { kill -9 "$(cat $base/$1/agent.pid)"; waitfor 20 "! kill -0 $(cat $base/$1/agent.pid)"; }
mirroring() { k $1 status data | grep -c ' Mirroring ' | grep -qx 2; }

modprobe nbd nbds_max=4
modprobe -a veth bridge sch_netem
ip link add br0 type bridge; ip link set br0 up
mkdir -p $base /mnt/d
cp /host/keelson $base/ # /host has no cache
i=0
for n in a b c; do
	i=$((i + 1))
	ip netns add $n
	ip link add v$n type veth peer name eth0 netns $n
	ip link set v$n master br0 up
	ip -n $n addr add 10.77.0.$i/24 dev eth0; ip -n $n link set eth0 up; ip -n $n link set lo up
	tc qdisc add dev v$n root netem delay 2ms 1ms loss 0.5%
	cp -r /host/$n $base/$n
	start $n
done
for n in a b c; do waitfor 60 "k $n status"; done
waitfor 60 "k a status | grep -q 'servers a b c reachable'"
k a volume create data --size 320MiB --source a:$base/a/data.img --target b:$base/b/data.img --target c:$base/c/data.img >/dev/null
waitfor 90 mirroring a
say "three agents mirror, with 2 ms +-1 ms and 0.5 % loss on every link"

dev=$(k a volume attach data)
[ "$dev" = $base/a/dev/data ] || fail "attach prints $dev"
k a status | grep 'device  *nbd /dev/nbd' || fail "auto took no kernel nbd"
real=$(readlink $dev)
[ "$(cat /sys/block/${real#/dev/}/queue/write_cache)" = "write back" ] || fail "no flush"
[ "$(cat /sys/block/${real#/dev/}/queue/discard_max_bytes)" -gt 0 ] || fail "no trim"
grep -q io_flusher=true $base/a.log || fail "the agent is no I/O flusher"
say "attached $real; the agent is an I/O flusher"

mkfs.ext4 -q $dev; mount $dev /mnt/d
cat >$base/write.py <<'END'
import hashlib, os, sys
for f in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    if os.path.exists(sys.argv[4]):
        break
    data = os.urandom(128 << 10)
    file = os.open(f"{sys.argv[5]}/f{f}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert os.write(file, data) == len(data)
    os.fsync(file)
    with open(sys.argv[3], "a") as sums:
        sums.write(f"{hashlib.sha256(data).hexdigest()}  f{f}\n")
END
at=/mnt/d # where the file system is
write() { rm -f $base/enough; python3 $base/write.py $1 $2 $base/sums $base/enough $at; } # FROM TO: files whose fsync succeeded are listed with their sums
verify() { ( cd $at && sha256sum --quiet -c $base/sums ) || fail "files differ"; }
write 1 40; fstrim /mnt/d
say "40 files written and trimmed around"

# the agent dies under load and is started again: requests wait, nothing fails
write 41 340 & writer=$!
waitfor 60 "grep -q f45 $base/sums"
die a; kill -0 $writer || fail "the writer was done before agent a was killed"
before=$(wc -l <$base/sums); say "agent a killed after $before files"
start a
waitfor 90 "[ \$(wc -l <$base/sums) -gt $((before + 5)) ]"
before=$(wc -l <$base/sums); say "they go on"
kill "$(cat $base/a/agent.pid)"; waitfor 60 "[ ! -e $base/a/agent.pid ]"
kill -0 $writer || fail "the writer was done before agent a was stopped"
start a
waitfor 90 "[ \$(wc -l <$base/sums) -gt $((before + 5)) ]"
touch $base/enough; wait $writer || fail "a write failed over the agent's restart"
[ "$(readlink $dev)" = $real ] || fail "the device is another one: $(readlink $dev)"
grep -q "$real /mnt/d ext4 rw" /proc/mounts || fail "the file system is not writable any more"
verify
waitfor 90 mirroring a
say "$(wc -l <$base/sums) files were written through a kill, a stop and two restarts; the same device, no error"

# a planned switchover: refused while it is mounted
rc=0; k a switchover data --to b --yes >$base/refused 2>&1 || rc=$?
[ $rc = 3 ] && grep -q /mnt/d $base/refused || fail "a switchover under a mounted file system: exit $rc: $(cat $base/refused)"
umount /mnt/d
waitfor 60 "k a switchover data --to b --yes"
[ ! -e $dev ] || fail "the old source has a device"
e2fsck -fn $base/b/dev/data >/dev/null 2>&1 || fail "the file system is not clean at b"
mount $base/b/dev/data /mnt/d; verify
write 401 430
waitfor 90 mirroring b
say "switched over to b, verified, 30 files more"

# b dies for good under load; c takes over by force
write 501 760 & writer=$!
waitfor 60 "grep -q f505 $base/sums"
die b; say "agent b killed"
waitfor 60 "k c switchover data --to c --force --yes"
say "c took over"
kill -0 $writer || fail "the writer did not wait for b"
k b volume detach data --abort >/dev/null
waitfor 60 "! kill -0 $writer"
rc=0; wait $writer || rc=$?
[ $rc != 0 ] || fail "writes to a dead source succeeded"
umount /mnt/d || umount --lazy /mnt/d
mount $base/c/dev/data /mnt/d; verify
say "everything that fsync had said is there: $(wc -l <$base/sums) files"
write 801 820
umount /mnt/d
e2fsck -fn $base/c/dev/data >/dev/null 2>&1 || fail "the file system is not clean at c"
start b
waitfor 120 mirroring c
waitfor 60 "! k b status | grep -q 'device  *nbd /dev/nbd'"
waitfor 60 "[ \$(ls -d /sys/block/nbd*/pid | wc -l) = 1 ]"
say "b came back as a target, and its dead device is gone"

# the same with XFS, and the way back
mkfs.xfs -q -f $base/c/dev/data || fail "mkfs.xfs"
mount $base/c/dev/data /mnt/d; rm $base/sums; write 1 20; umount /mnt/d
waitfor 60 "k c switchover data --to a --yes"
mount $base/a/dev/data /mnt/d; verify; umount /mnt/d
xfs_repair -n $base/a/dev/data >/dev/null 2>&1 || fail "XFS is not clean at a"
k a volume detach data
waitfor 90 mirroring a
stopall() { for n in a b c; do kill "$(cat $base/$n/agent.pid)"; done; for n in a b c; do waitfor 60 "[ ! -e $base/$n/agent.pid ]"; done; }
stopall

# the configuration has a mount: the agents mount and unmount
for n in a b c; do printf '\n[[volume]]\nname = "data"\nmount = "/mnt/x"\nmount-options = "noatime"\n' >>$base/$n/keelson.toml; start $n; done
for n in a b c; do waitfor 60 "k $n status"; done
waitfor 120 mirroring a
at=/mnt/x
mounted() { grep -q "^$(readlink $base/$1/dev/data) $at xfs rw,noatime" /proc/mounts && [ "$(grep -c " $at " /proc/mounts)" = 1 ]; }
mountid() { awk -v at=$at '$5 == at {print $1}' /proc/self/mountinfo; }
k a volume attach data >/dev/null
waitfor 60 mounted a; verify
id=$(mountid); real=$(readlink $base/a/dev/data)
write 901 1200 & writer=$!
waitfor 60 "grep -q f905 $base/sums"
die a; kill -0 $writer || fail "the writer was done before agent a was killed"
before=$(wc -l <$base/sums); start a
waitfor 90 "[ \$(wc -l <$base/sums) -gt $((before + 5)) ]"
touch $base/enough; wait $writer || fail "a write to the mounted file system failed over the agent's restart"
waitfor 90 mirroring a
[ "$(mountid)" = "$id" ] && [ "$(readlink $base/a/dev/data)" = $real ] && mounted a || fail "after the agent's restart the mount is another one: $(grep $at /proc/mounts)"
verify
say "attached, and mounted at $at: through the death of the agent under load it is the same mount"

( cd $at; exec sleep 10000 ) & holder=$!
waitfor 60 "[ \$(readlink /proc/$holder/cwd) = $at ]"
rc=0; k a switchover data --to b --unmount --yes >$base/refused 2>&1 || rc=$?
[ $rc = 3 ] && grep -q "$holder" $base/refused || fail "a switchover with a process in the mount: exit $rc: $(cat $base/refused)"
waitfor 60 mounted a; write 1201 1205
kill $holder; wait $holder || true
waitfor 60 "k a switchover data --to b --unmount --yes"
waitfor 60 mounted b; verify; write 1301 1310
waitfor 90 mirroring b
k b switchover data --to a --yes >/dev/null # what the agent mounted it unmounts without being asked
waitfor 60 mounted a; verify
k a volume detach data >/dev/null
! grep " $at " /proc/mounts || fail "detached, and mounted still"
waitfor 90 mirroring a
say "switched over and back, the mount went along; refused while a process was in it; the detach has unmounted it"
stopall
! grep 'acknowledged nothing' $base/?.log || fail "a target that lives was given up"
cmp $base/a/data.img $base/b/data.img && cmp $base/a/data.img $base/c/data.img || fail "the copies differ"
! ls -d /sys/block/nbd*/pid 2>/dev/null || fail "a device is left"
say "PASSED"
