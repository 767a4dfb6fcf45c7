#!/usr/bin/env bash
# Installs the Debian packages that the tests use, as far as their programs are missing. Nothing here is part of the
# product, which needs Go to be built and nothing to run.
set -euo pipefail

# program:package
needs="fio:fio nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdfuse:libnbd-bin nbdkit:nbdkit qemu-img:qemu-utils qemu-io:qemu-utils
qemu-storage-daemon:qemu-system-common mkfs.ext4:e2fsprogs e2fsck:e2fsprogs debugfs:e2fsprogs fusermount3:fuse3
losetup:mount mount:mount python3:python3 cmp:diffutils gcc:gcc git:git"

PATH=$PATH:/usr/sbin:/sbin
missing=""
for need in $needs; do
	command -v "${need%%:*}" >/dev/null || missing="$missing ${need##*:}"
done
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev" # the race detector is linked with cgo
missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
if [ -n "${missing// /}" ]; then
	echo "installing: $missing"
	as_root=""
	[ "$(id -u)" = 0 ] || as_root="sudo -n"
	export DEBIAN_FRONTEND=noninteractive
	$as_root apt-get update -qq
	$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if ! command -v go >/dev/null; then
	echo "Go is missing: install Go 1.26 or newer and put it on the PATH" >&2
	exit 1
fi
