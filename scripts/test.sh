#!/usr/bin/env bash
# Runs the whole suite and closes with lines that can be read at a glance.
#
# usage: scripts/test.sh [--long]     --long: the tests marked #[ignore] as well
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
log=target/test.log
arguments=()
[ "${1:-}" = --long ] && arguments=(-- --include-ignored)
started=$SECONDS
code=0
scripts/swept.sh cargo test --workspace --release ${CI:+--locked} --no-fail-fast "${arguments[@]}" </dev/null 2>&1 | tee "$log" || code=$?

minutes=$(((SECONDS - started + 59) / 60))
count() { sed -nE "s/^test result: .* ([0-9]+) $1.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'; }
passed=$(count passed) failed=$(count failed) ignored=$(count ignored)
echo
if [ "$code" = 0 ]; then
  echo "make test: PASSED, $passed tests in $minutes min; $ignored heavy ones left to 'make test-long'"
else
  echo "make test: FAILED, $failed of $((passed + failed)) tests, in $minutes min; the log is $log"
  grep -E '^test .* FAILED$|^error(\[|:)' "$log" | sort -u | sed 's/^/  /' | head -n 60 || true
fi
exit "$code"
