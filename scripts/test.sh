#!/usr/bin/env bash
# The whole test suite in its short form. Prints the figures that the tests report and ends with
# "N passed, N failed, N skipped". A missing component is a failure.
#   scripts/test.sh        short form
#   scripts/test.sh long   long forms too (TRAINYARD_LONG=1)
set -uo pipefail
cd "$(dirname "$0")/.."
export TRAINYARD_LONG=$([ "${1:-short}" = long ] && echo 1 || echo 0)
started=$SECONDS
passed=0 failed=0 skipped=0
step() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }
one() { # a check that counts as one test
  if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}

scripts/setup.sh tests || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
mkdir -p target
step "format";  one "cargo fmt --check (run cargo fmt)" cargo fmt --check
if [ -z "${TRAINYARD_TEST_KUBECONFIG:-}" ]; then
  step "cluster"; trap 'scripts/cluster.sh down' EXIT; one "scripts/cluster.sh up" scripts/cluster.sh up
fi
step "build";   cargo build --locked --workspace --tests --bins || { echo "$passed passed, $((failed + 1)) failed, 0 skipped"; exit 1; }
step "static agent"; one "scripts/static.sh" scripts/static.sh
step "gitea"; one "scripts/gitea.sh" scripts/gitea.sh
step "fake-gcs"; one "scripts/fake-gcs.sh" scripts/fake-gcs.sh
step "lints";   one "cargo clippy" cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
step "tests"
# Sandboxes keep what was said to them here; afterwards all of it is held against the forges' own descriptions.
export TRAINYARD_EXCHANGES=$PWD/target/exchanges
rm -rf "$TRAINYARD_EXCHANGES" && mkdir -p "$TRAINYARD_EXCHANGES"
cargo test --locked --workspace --no-fail-fast -- --nocapture --test-threads="${TRAINYARD_TEST_THREADS:-2}" >target/test.log 2>&1
rc=$?
grep -E '^(SEC|FAULT|FIGURE) ' target/test.log | sort | uniq
if [ $rc -ne 0 ]; then
  echo; echo "The tests that failed (whole output: target/test.log):"
  grep -E '^test .* FAILED$|panicked at' target/test.log | head -n 60
  grep -A 14 -E "panicked at" target/test.log | head -n 160
fi
while read -r ok bad ignored; do
  passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + ignored))
done < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' target/test.log)
one "calls of forges are as their makers describe them" node tests/npm/forge-shapes.mjs target "$TRAINYARD_EXCHANGES"
if [ $rc -ne 0 ] && [ $failed -eq 0 ]; then failed=1; tail -n 40 target/test.log; fi
printf '\n%d s\n%d passed, %d failed, %d skipped\n' $((SECONDS - started)) "$passed" "$failed" "$skipped"
[ $failed -eq 0 ] && [ $skipped -eq 0 ]
