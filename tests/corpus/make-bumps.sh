#!/usr/bin/env bash
# Makes two generations of a fake NixOS system, FOLDER/top1 and FOLDER/top2, between which Debian packages got new versions: the
# oldest and the newest of each that this machine's apt knows. What depends on them is rebuilt, as make-corpus.sh has it.
#
# usage: make-bumps.sh FOLDER [MOST-PACKAGES]      (120 unless said otherwise; downloads some 90 MB from Debian's archive)
# needs: what make-corpus.sh needs, and apt with its lists
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
export NIX_REMOTE=local NIX_PATH=
mkdir -p /nix/store /nix/var/nix
[ -f "$folder/pkgs.json" ] || python3 "$here/spec.py" "$folder" "${2:-120}" >&2
python3 "$here/bumps.py" "$folder"
for which in old new; do
  case $which in old) name=top1 ;; new) name=top2 ;; esac
  drv=$(nix-instantiate "$here/default.nix" --arg dir "$folder/$which" --add-root "$folder/$name.drv")
  nix-store --option sandbox false --option build-users-group "" -r "$drv" --add-root "$folder/$name" -j 2 >/dev/null 2>"$folder/$name.log"
  readlink -f "$folder/$name"
done
