#!/usr/bin/env bash
# Builds fake-gcs-server, which answers as Google's object storage does, from its Go module (a minute or two, once). Prints its path.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.56.1
out=$PWD/target/fake-gcs/$version
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
if [ ! -x "$out/fake-gcs-server" ]; then
  echo "fake-gcs: building $version" >&2
  GOBIN=$out go install -trimpath -ldflags "-s -w" "github.com/fsouza/fake-gcs-server@$version" >"$out/build.log" 2>&1 \
    || { tail -n 5 "$out/build.log" >&2; exit 1; }
fi
echo "$out/fake-gcs-server"
