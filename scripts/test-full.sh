#!/usr/bin/env bash
# The long forms of the tests and the container image. Its output is kept in docs/evidence/test-full.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p docs/evidence target
{
  echo "commit $(git rev-parse HEAD), $(date -u +%FT%TZ), $(nproc) cores"
  failed=0
  scripts/test.sh long || failed=1
  scripts/image.sh || { failed=1; echo "FAILED: the image"; }
  [ $failed -eq 0 ] && echo "test-full: passed" || echo "test-full: FAILED"
} 2>&1 | tee target/test-full.txt | grep -vE '^ +(Compiling|Running)'
grep -q '^test-full: passed' target/test-full.txt && grep -vE '^ *(Compiling|Finished|Running|Downloaded)' target/test-full.txt >docs/evidence/test-full.txt
