# Two commands matter: `make run` and `make test`. What they need is installed, or said, by scripts/prepare.sh.
#
#   make run            build, start snowcached on ./var, print what to paste into nix.conf
#   make test           all set-up for the whole test suite, then the suite
#   make test-long      the heavy tests besides: a 20 GB NAR, 10,000 references, 64 uploads and 256 downloads at once
#   make test-proofs    the long forms of the proofs of durability, one after the other: hours; each is a target of its own:
#   make test-faults    SIGKILL, ENOSPC and EIO at every call that a start, a push, a collection and an end do on the disk
#   make test-power     power cuts on ext4 and xfs (SNOWCACHE_CUTS=1000 of each; root)
#   make test-crash     kill -9 (SNOWCACHE_KILLS=10000)
#   make test-push-kills  a push killed at each of its stages: client, server, one with named caches, connections (SNOWCACHE_KILLS=720)
#   make test-race      two builds of one path, 64 clients (SNOWCACHE_ROUNDS=10000)
#   make test-flips     single bits flip (SNOWCACHE_FLIPS=10000)
#   make test-agent     prefetch and switch while the agent is killed and the cache cut, lying, stalled or gone (SNOWCACHE_CYCLES=1000)
#   make demo           two generations pushed; what stock Nix fetches and what the agent does; a switch with the cache dead
#   make check          format, clippy, licences (cargo deny, where it is installed), docs, tidy
#   make bench          every goal of speed, memory and storage measured against nginx: tables and plots in target/bench (15 minutes)
#   make bench-quick    the same in two minutes, with figures that are only a first look
#   make bench-storage  what two generations of a system cost on disk
#   make bench-push     what a push takes, beside nix copy
#   make bench-hook     what a build waits for the post-build-hook
#   make bench-rollout  what it takes to bring a closure to a node, beside its floor and stock Nix
#   make bench-scrub    what a scrub reads a second, and what requests notice of it
#   make bench-instructions  instructions a narinfo takes, against the committed count (valgrind)
#   make build          the release binaries, nothing else
#   make test-setup     what `make test` does before it tests; after it, plain `cargo test --release` works too

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
proofs := test-faults test-power test-crash test-push-kills test-race test-flips test-agent
commands := run demo build test test-setup test-long test-proofs $(proofs) check bench bench-quick bench-storage bench-push bench-hook bench-rollout bench-scrub bench-instructions
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

test-proofs: $(proofs)

# One test at a time: what is timed must not wait for another.
proof = SNOWCACHE_LONG=1 scripts/swept.sh cargo test --release --test $(1) -- --nocapture --test-threads 1

test-faults: test-setup
	@$(call proof,faults)

test-power: export SNOWCACHE_CUTS ?= 1000
test-power: test-setup
	@$(call proof,power)

test-crash: export SNOWCACHE_KILLS ?= 10000
test-crash: test-setup
	@$(call proof,crash)

test-push-kills: export SNOWCACHE_KILLS ?= 720
test-push-kills: test-setup
	@$(call proof,push_kills)

test-race: export SNOWCACHE_ROUNDS ?= 10000
test-race: test-setup
	@$(call proof,race)

test-flips: export SNOWCACHE_FLIPS ?= 10000
test-flips: test-setup
	@$(call proof,flips)

test-agent: export SNOWCACHE_CYCLES ?= 1000
test-agent: test-setup
	@$(call proof,cycles)

demo:
	@scripts/prepare.sh test
	@scripts/build.sh
	@scripts/demo.sh

check:
	@scripts/prepare.sh check
	@scripts/check.sh

# Debian's files make the real corpus; elsewhere, and in the quick form, it is the synthetic one.
bench:
	@scripts/prepare.sh test
	@scripts/build.sh
	@if command -v dpkg-query >/dev/null; then scripts/test-inputs.sh; fi
	@scripts/swept.sh cargo bench --bench table

bench-quick: export SNOWCACHE_BENCH_QUICK = 1
bench-quick:
	@scripts/prepare.sh test
	@scripts/build.sh
	@scripts/swept.sh cargo bench --bench table

bench-storage: test-setup
	@scripts/swept.sh cargo bench --bench storage

bench-push: test-setup
	@scripts/swept.sh cargo bench --bench push

bench-hook: test-setup
	@scripts/swept.sh cargo bench --bench hook

bench-scrub: test-setup
	@scripts/swept.sh cargo bench --bench scrub

bench-rollout: test-setup
	@scripts/build.sh
	@scripts/swept.sh cargo bench --bench rollout

bench-instructions:
	@scripts/prepare.sh test
	@cargo bench -p snowcache-server --bench instructions

endif
