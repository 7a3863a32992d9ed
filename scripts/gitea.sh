#!/usr/bin/env bash
# Builds a real Gitea, target/gitea/gitea, from its Go module (5 to 10 minutes on two cores, once), with the files it reads beside it.
# Prints its folder.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.26.0
out=$PWD/target/gitea
if [ ! -x "$out/gitea" ]; then
  echo "gitea: building $version (5 to 10 minutes on two cores, once) ..." >&2
  mkdir -p "$out/static" "$out/tmp"
  module=$(cd "$out/tmp" && go mod download -json "code.gitea.io/gitea@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  for part in templates options public; do cp -r --no-preserve=mode "$module/$part" "$out/static/"; done
  (cd "$module" && go build -mod=readonly -trimpath -tags "sqlite sqlite_unlock_notify" -ldflags "-s -w" -o "$out/gitea.part" .) >"$out/build.log" 2>&1 \
    || { tail -n 5 "$out/build.log" >&2; exit 1; }
  rmdir "$out/tmp"
  mv "$out/gitea.part" "$out/gitea"
fi
echo "$out"
