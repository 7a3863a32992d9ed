#!/usr/bin/env bash
# The numbers of `make bench`, release build, each beside its peer or limit in the same run. Installs the peers it can.
#   scripts/bench.sh [NAME ...]   only the cases whose names begin so (intake dispatch launch log idle start list;
#                                 profile drift check unique bootstrap: of crates/trainyard-data)
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh tests
want() { [ $# -eq 1 ] && return 0; local case=$1; shift; local name; for name; do case "$case" in "$name"*) return 0;; esac; done; return 1; }

daemon=() data=()
for name in "$@"; do
  case "$name" in profile*|drift*|check*|unique*|bootstrap*) data+=("$name");; *) daemon+=("$name");; esac
done
if [ $# -eq 0 ] || [ ${#data[@]} -gt 0 ]; then
  echo "# profiles, checks and statistics: $(nproc) cores, $(date -u +%FT%TZ); peers are installed from tests/python"
  cargo bench --locked --quiet -p trainyard-data --bench data -- "${data[@]}"
  [ $# -eq 0 ] || [ ${#daemon[@]} -gt 0 ] || exit 0
fi
set -- "${daemon[@]}"

echo "# build (release)"
cargo bench --locked --no-run --bench numbers
if want intake "$@"; then
  if ! command -v webhook >/dev/null; then
    echo "# installing Debian's webhook"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends webhook; } >/dev/null
  fi
  TRAINYARD_BENCH_FASTAPI=$(scripts/venv.sh fastapi)
  TRAINYARD_BENCH_PROW=$PWD/target/prow/hook
  export TRAINYARD_BENCH_FASTAPI TRAINYARD_BENCH_PROW
  if [ ! -x "$TRAINYARD_BENCH_PROW" ] && command -v go >/dev/null; then
    echo "# building Prow's hook (a few minutes, once)"
    scripts/prow.sh || echo "# Prow's hook does not build here"
  fi
fi
if want dispatch.k8s "$@" || want launch "$@"; then
  echo "# a static release for pods"
  TRAINYARD_BENCH_STATIC=$PWD/$(scripts/static.sh release)
  export TRAINYARD_BENCH_STATIC
  trap 'scripts/cluster.sh down' EXIT
fi
echo "# $(nproc) cores, $(date -u +%FT%TZ), sources of \"$(git log -1 --format=%s)\""
cargo bench --locked --quiet --bench numbers -- "$@"
