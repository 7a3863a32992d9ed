#!/usr/bin/env bash
# The static binary that the cluster tests put into their image: development profile, no symbols, in a target directory
# of its own so that it shares no lock with other builds; `static.sh release` is the benchmarks'. Prints its path.
set -euo pipefail
cd "$(dirname "$0")/.."
linker=
command -v mold >/dev/null && linker=" -Clink-arg=-fuse-ld=mold"
RUSTFLAGS="-Ctarget-feature=+crt-static$linker" CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=symbols CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}" \
    cargo build --locked --quiet ${1:+--profile "$1"} --target x86_64-unknown-linux-gnu --target-dir target/static --bin trainyard 1>&2
echo target/static/x86_64-unknown-linux-gnu/${1:-debug}/trainyard
