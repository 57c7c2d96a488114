#!/usr/bin/env bash
# What a change must pass besides its tests: format, clippy, dependencies, docs, tidy.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { echo "check: $1"; shift; "$@"; }
step "format" cargo fmt --all --check
step "clippy" cargo clippy --workspace --all-targets --release ${CI:+--locked} --quiet -- -D warnings
if cargo deny --version >/dev/null 2>&1; then
  step "licences, sources" cargo deny --workspace --all-features check bans licenses sources
else
  echo "check: cargo deny is not installed (cargo install --locked cargo-deny): licences and sources left unchecked"
fi
step "docs" env RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --release ${CI:+--locked} --quiet
step "tidy" cargo test --release ${CI:+--locked} --quiet --package snowcache-harness --test tidy
echo "check: PASSED"
