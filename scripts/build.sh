#!/usr/bin/env bash
# Builds target/release/snowcached and target/release/snowcache; says beforehand how long the first time takes.
#
# Nearly all of a first build is RocksDB's C++ (about 40 CPU minutes). ccache keeps the objects in ~/.cache/ccache, so that
# another checkout, another profile or a cleaned target folder need not pay for them again.
set -euo pipefail
cd "$(dirname "$0")/.."
cores=$(nproc)
if [ ! -x target/release/snowcached ]; then
  minutes=$((40 / cores + 3))
  if [ -d "${CCACHE_DIR:-$HOME/.cache/ccache}/0" ] && command -v ccache >/dev/null; then
    echo "snowcache: building: about $minutes minutes the first time on $cores cores, about 4 if ccache still has RocksDB" >&2
  else
    echo "snowcache: building for the first time: about $minutes minutes on $cores cores, nearly all of it RocksDB" >&2
  fi
fi
exec cargo build --release ${CI:+--locked} --workspace --bins
