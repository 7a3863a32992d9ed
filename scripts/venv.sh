#!/usr/bin/env bash
# Makes the Python environment target/venv/NAME from tests/python/NAME.txt (pinned), once; prints the path of its python.
#   scripts/venv.sh NAME
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?usage: scripts/venv.sh NAME}
pins=tests/python/$name.txt
venv=target/venv/$name
[ -f "$pins" ] || { echo "venv: there is no $pins" >&2; exit 1; }
mkdir -p target/venv
exec 9>"target/venv/.$name.lock"
flock 9 # two test binaries may ask at once
if ! cmp -s "$pins" "$venv/.installed"; then
  echo "venv: installing $name" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  log=$(mktemp)
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$pins" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "venv: pip could not install $pins (the lines above say why)" >&2
    exit 1
  fi
  rm -f "$log"
  cp "$pins" "$venv/.installed"
fi
echo "$PWD/$venv/bin/python"
