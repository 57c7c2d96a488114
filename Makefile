# Two commands matter: `make run` and `make test`. What they need is installed, or said, by scripts/prepare.sh.
#
#   make run            build, start snowcached on ./var, print what to paste into nix.conf
#   make test           all set-up for the whole test suite, then the suite
#   make test-long      the heavy tests besides: a 20 GB NAR, 10,000 references, 64 uploads and 256 downloads at once
#   make check          format, clippy, licences (cargo deny, where it is installed), docs, tidy
#   make bench-storage  what two generations of a system cost on disk
#   make build          the release binaries, nothing else
#   make test-setup     what `make test` does before it tests; after it, plain `cargo test --release` works too

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
commands := run build test test-setup test-long check bench-storage
.PHONY: help $(commands)

help:
	@sed -n 's/^#   //p' Makefile

# On NixOS nothing is installed: the dev shell of flake.nix has it all, and every command runs inside it.
ifneq ($(and $(wildcard /etc/NIXOS),$(if $(SNOWCACHE_DEV_SHELL),,outside)),)

$(commands):
	@exec nix --extra-experimental-features 'nix-command flakes' develop --command $(MAKE) $@

else

# ccache stands first in PATH instead of in CC=: so plain cargo and make have the same fingerprints and share one build.
export PATH := /usr/lib/ccache:$(PATH):$(HOME)/.cargo/bin

run: build
	@exec target/release/snowcached --config config/snowcached.toml

build:
	@scripts/prepare.sh run
	@scripts/build.sh

test-setup:
	@scripts/prepare.sh test
	@scripts/build.sh
	@scripts/test-inputs.sh

test: test-setup
	@scripts/test.sh

test-long: test-setup
	@scripts/test.sh --long

check:
	@scripts/prepare.sh check
	@scripts/check.sh

bench-storage: test-setup
	@cargo bench --bench storage

endif
