#!/usr/bin/env bash
# Unpacks the kubectl of Debian 13 beside whatever is installed: Debian 12's is too old for config/kubernetes. Installs nothing
# on the system.
#
# usage: newer-kubectl.sh FILE APT     APT: the folder that tests/newer-nix.sh made to ask Debian 13 with
set -euo pipefail
file=$1 apt=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=(-o Dir::State="$apt/state" -o Dir::State::status="$apt/state/status" -o Dir::State::lists="$apt/lists"
  -o Dir::Cache="$work" -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts=/nonexistent
  -o APT::Sandbox::User=root)
cd "$work"
apt-get "${options[@]}" download kubectl || { apt-get "${options[@]}" update && apt-get "${options[@]}" download kubectl; }
dpkg -x kubectl_*.deb root
mv root/usr/bin/kubectl "$file"
"$file" version --client
