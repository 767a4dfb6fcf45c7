#!/usr/bin/env bash
# Installs the Debian packages that the tests use, as far as their programs are missing. Nothing here is part of the
# product, which needs Go to be built and nothing to run.
set -euo pipefail

# program:package
needs="fio:fio nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdfuse:libnbd-bin nbdkit:nbdkit qemu-img:qemu-utils qemu-io:qemu-utils
qemu-storage-daemon:qemu-system-common mkfs.ext4:e2fsprogs e2fsck:e2fsprogs debugfs:e2fsprogs fusermount3:fuse3
mkfs.xfs:xfsprogs xfs_repair:xfsprogs mkfs.btrfs:btrfs-progs fstrim:util-linux
promtool:prometheus chromium:chromium node:nodejs npm:npm curl:curl losetup:mount mount:mount ip:iproute2 unshare:util-linux nsenter:util-linux
psql:postgresql-client python3:python3 cmp:diffutils dbus-daemon:dbus-daemon gcc:gcc git:git openssl:openssl"

PATH=$PATH:/usr/sbin:/sbin
missing=""
for need in $needs; do
	command -v "${need%%:*}" >/dev/null || missing="$missing ${need##*:}"
done
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev" # the race detector is linked with cgo
# Debian keeps the server's programs out of the PATH. Installing it makes no data base and starts no server.
if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || ! ls /usr/lib/postgresql/*/bin/pg_amcheck >/dev/null 2>&1; then
	missing="$missing postgresql"
fi
missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
if [ -n "${missing// /}" ]; then
	echo "installing: $missing"
	as_root=""
	[ "$(id -u)" = 0 ] || as_root="sudo -n"
	export DEBIAN_FRONTEND=noninteractive
	if [[ $missing == *postgresql* ]]; then
		$as_root mkdir -p /etc/postgresql-common/createcluster.d
		echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.d/keelson-tests.conf >/dev/null
	fi
	$as_root apt-get update -qq
	$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if ! command -v go >/dev/null; then
	echo "Go is missing: install Go 1.26 or newer and put it on the PATH" >&2
	exit 1
fi
# What the tests of the page have from npm, as the lock file says.
page=$(dirname "$0")/../test/web
if ! cmp -s "$page/package-lock.json" "$page/node_modules/.installed"; then
	(cd "$page" && npm ci --no-audit --no-fund --loglevel=error >/dev/null && cp package-lock.json node_modules/.installed)
fi
