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

# Kubernetes' schemas, for config/kubernetes; 22 MB.
kubernetes_validate=1.37.0
if ! "$inputs/python/bin/python" -c "import kubernetes_validate as k; assert k.__version__ == '$kubernetes_validate'" 2>/dev/null; then
  echo "snowcache: installing kubernetes-validate from PyPI into $inputs/python" >&2
  attempt "a Python of our own" python3 -m venv "$inputs/python"
  attempt "kubernetes-validate" "$inputs/python/bin/pip" install --quiet "kubernetes-validate==$kubernetes_validate"
fi

valid() { NIX_REMOTE=local nix-store --check-validity "$(readlink -f "$inputs/corpus-120/$1")" 2>/dev/null; }
if ! { [ -e "$inputs/corpus-120/top1" ] && valid top1 && [ -e "$inputs/corpus-120/top2" ] && valid top2; }; then
  echo "snowcache: making two generations of a system for the tests (143 store paths, 412 MB; 3 minutes)" >&2
fi
attempt "the test corpus" tests/corpus/make-corpus.sh "$inputs/corpus-120" 120
