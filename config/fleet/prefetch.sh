#!/bin/sh
# Has nodes prefetch their next systems, all at a time, before a tool switches them: what nixos-rebuild, colmena or deploy-rs copy
# then is there already, verified, and the switch needs no network. docs/agent.md shows the lines for each tool.
#
# usage: prefetch.sh [--deadline SECONDS] [--pin NAME] < NODES      a line for each node: HOST STORE-PATH
#
# HOST is what ssh takes; $SSH is another program in its place. Ends with 1, and the nodes that are not ready, when one is not.
set -eu
deadline=3600 pin=system
while [ $# -gt 0 ]; do
  case $1 in
    --deadline) deadline=$2; shift 2 ;;
    --pin) pin=$2; shift 2 ;;
    *) echo "usage: prefetch.sh [--deadline SECONDS] [--pin NAME] < NODES" >&2; exit 2 ;;
  esac
done
failed=$(mktemp -d)
trap 'rm -rf "$failed"' EXIT
while read -r host path; do
  case $path in
    /nix/store/*) ;;
    *) echo "prefetch.sh: $host: $path is no store path" >&2; exit 2 ;;
  esac
  (
    "${SSH:-ssh}" "$host" -- snowcache prefetch "$path" --pin "$pin" --deadline "$deadline" </dev/null 2>&1 |
      sed "s/^/$host: /"
    # The gate has the last word, also when the line broke.
    "${SSH:-ssh}" "$host" -- snowcache gate "$path" </dev/null || echo "$host" >"$failed/$host"
  ) &
done
wait
if [ -n "$(ls "$failed")" ]; then
  echo "prefetch.sh: not ready: $(cat "$failed"/* | tr '\n' ' ')" >&2
  exit 1
fi
