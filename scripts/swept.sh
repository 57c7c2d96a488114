#!/usr/bin/env bash
# Runs a command with temporary folders of its own, on disk and in memory, and removes them with all that is in them when it
# has ended, however it did: a test binary's shared servers end with it and leave theirs.
#
# usage: scripts/swept.sh COMMAND [ARGUMENT...]
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: scripts/swept.sh COMMAND [ARGUMENT...]" >&2; exit 2; }
on_disk=$(mktemp -d)
in_memory=$(mktemp -d -p /dev/shm 2>/dev/null || true)
# Who they are not of may pass through, as through /tmp: some stories ask as another user.
chmod 711 "$on_disk" ${in_memory:+"$in_memory"}
sweep() {
  local attempt
  for attempt in 1 2 3 4 5; do
    chmod -R u+w "$on_disk" ${in_memory:+"$in_memory"} 2>/dev/null || true
    # What a server that is just being killed still writes is gone a moment later.
    rm -rf "$on_disk" ${in_memory:+"$in_memory"} 2>/dev/null && return
    sleep 1
  done
  echo "snowcache: $on_disk ${in_memory:-} could not be removed" >&2
}
trap sweep EXIT
trap 'exit 130' INT TERM HUP
TMPDIR=$on_disk TMPDIR_IN_MEMORY=$in_memory "$@"
