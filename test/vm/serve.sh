#!/bin/bash
# serve.sh NAME: runs INSIDE a guest with systemd, at each boot: runs what servers.sh asks for through the shared folder, one command after the other.
dir=/host/$1
mkdir -p "$dir"
rm -f "$dir"/do "$dir"/doing "$dir"/rc
export DEBIAN_FRONTEND=noninteractive
cd /root || exit 1
cat /proc/sys/kernel/random/boot_id >"$dir/boot.new" && mv "$dir/boot.new" "$dir/boot"
mkfifo -m 600 /run/never && exec 3<>/run/never
while :; do
	if mv "$dir/do" "$dir/doing" 2>/dev/null; then
		sh -e "$dir/doing" >"$dir/out" 2>"$dir/err" </dev/null 3>&-
		echo $? >"$dir/rc.new" && mv "$dir/rc.new" "$dir/rc"
	fi
	until [ -e "$dir/do" ]; do read -rt 0.2 -u 3; done
done
