#!/usr/bin/env bash
# Boots a real systemd as the first process of a machine of its own, which shares this one's kernel and network.
#
# usage: boot.sh SLICE UNITS    until killed; systemd logs to stdout
#   SLICE   a folder of cgroup2 that is the machine's own
#   UNITS   the folder of the units that it has: these and no others; `test.target` is what it boots to
# needs: root, overlayfs, cgroup2. Its root is this machine's with a layer in memory: what it writes is gone with it, but for
# the units' folder and /dev/shm. Reached by: nsenter --target PID --all --  (PID: the one child of unshare)
set -euo pipefail
if [ "${1:-}" != --inside ]; then
  slice=$1 units=$2
  mkdir -p "$slice"
  echo $$ >"$slice/cgroup.procs"
  exec unshare --pid --fork --kill-child --mount --cgroup --uts --ipc "$0" --inside "$units"
fi
units=$2
hostname snowcache-test
work=$units/machine
mkdir "$work"
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root}
root=$work/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{pts,shm} "$root/run/units"
mount --bind /dev/shm "$root/dev/shm"
mount -t devpts devpts -o newinstance,ptmxmode=0666 "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount --bind "$units" "$root/run/units"
mkdir -p "$root/mnt"
cd "$root"
pivot_root . mnt
umount -l /mnt
# As every machine has it: a unit's credentials are mounted by a child of systemd's, which must reach the unit.
mount --make-rshared /
export container=snowcache-test SYSTEMD_UNIT_PATH=/run/units
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --log-level=info
