#!/usr/bin/env bash
# Installs what this machine lacks, and says so.
#
# usage: scripts/prepare.sh run|test|check     what the machine is to be able to do afterwards
#
# Debian and its kin: by apt-get, as root or through sudo. Elsewhere (NixOS's dev shell among them): only looks.
# Looks before it acts: a machine that has everything is not touched and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:?usage: scripts/prepare.sh run|test|check}
say() { echo "snowcache: $*" >&2; }
die() { say "$*"; exit 1; }

build_packages=(g++ clang libclang-dev ccache make ca-certificates)
test_packages=(nix-bin python3 git jq curl xz-utils bzip2 gzip zstd brotli lzip lz4 strace util-linux procps
  mount e2fsprogs xfsprogs nginx-light openssl crun systemd python3-venv rclone)
packages=("${build_packages[@]}")
[ "$purpose" = run ] || packages+=("${test_packages[@]}")

missing=()
if [ -e /etc/NIXOS ]; then
  : # the dev shell, in which the Makefile runs everything there, has it all
elif command -v dpkg-query >/dev/null; then
  for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
  done
else
  for program in g++ clang ccache make; do
    command -v "$program" >/dev/null || die "not a Debian machine: install $program (all that is needed: ${packages[*]})"
  done
fi

if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "missing: ${missing[*]}; run as root:  apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing what is missing: ${missing[*]}"
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y --no-install-recommends install "${missing[@]}")
  # RUNLEVEL=1: nginx is only wanted as a program, no service on port 80.
  # Old package lists name versions that are gone: then once more with fresh ones.
  "${install[@]}" </dev/null >/dev/null 2>&1 || {
    "${as_root[@]}" apt-get update </dev/null >/dev/null
    "${install[@]}" </dev/null >/dev/null
  }
fi

need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
if [ -z "$have" ] || [ "$(printf '%s\n' "$need" "$have" | sort -V | head -n1)" != "$need" ]; then
  die "Rust ${need} or newer is needed, this machine has ${have:-none}; get it with rustup: https://rustup.rs"
fi
