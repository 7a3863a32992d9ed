#!/usr/bin/env bash
# Installs what the build and the tests need and this machine lacks: Debian packages (scripts/packages.txt), and for
# `setup.sh tests` the npm packages of tests/npm. Quick when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:-build}

for tool in cargo python3; do
  command -v "$tool" >/dev/null || { echo "setup: $tool is missing; install it and run this again" >&2; exit 1; }
done

if [ "$want" = tests ]; then
  mapfile -t packages < <(grep -vE '^\s*(#|$)' scripts/packages.txt)
elif command -v cc >/dev/null && command -v git >/dev/null; then
  packages=() # enough for a build, on any distribution
else
  packages=(build-essential ca-certificates git)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: these Debian packages are missing: ${missing[*]}" >&2
    echo "setup: run 'sudo apt-get install ${missing[*]}' or run this as root" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "setup: apt-get could not install ${missing[*]} (the lines above say why)" >&2
    exit 1
  fi
  rm -f "$log"
fi

[ "$want" = tests ] || exit 0
[ "$(id -u)" -eq 0 ] || { echo "setup: the tests mount loop devices and make system users: run them as root" >&2; exit 1; }
for tool in node npm; do
  command -v "$tool" >/dev/null || { echo "setup: $tool is missing; install Node.js 20 or newer and run this again" >&2; exit 1; }
done
command -v go >/dev/null || { echo "setup: go is missing; install Go 1.26 or newer and run this again" >&2; exit 1; }
[ -n "${TRAINYARD_TEST_KUBECONFIG:-}" ] || scripts/cluster.sh build
if ! cmp -s tests/npm/package-lock.json target/npm/.installed; then
  echo "setup: installing the npm packages of tests/npm"
  mkdir -p target/npm
  cp tests/npm/package.json tests/npm/package-lock.json target/npm/
  [ ! -f tests/npm/.npmrc ] || cp tests/npm/.npmrc target/npm/
  (cd target/npm && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
  cp tests/npm/package-lock.json target/npm/.installed
fi
# Go modules whose files the tests read: recorded webhooks of GitLab and Gitea, Gitea's description of its API.
if ! cmp -s tests/go/modules.txt target/go/.installed; then
  echo "setup: downloading the Go modules of tests/go/modules.txt"
  mkdir -p target/go
  # As writable files, so that target/ can be deleted.
  (cd target/go && GOFLAGS=-modcacherw GOMODCACHE="$PWD" xargs -r go mod download <../../tests/go/modules.txt)
  cp tests/go/modules.txt target/go/.installed
fi
