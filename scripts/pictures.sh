#!/usr/bin/env bash
# Takes the pictures of the documentation anew: the browser test of the dashboard makes them, pngquant makes them small.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v pngquant >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pngquant >/dev/null; }
[ "${1:-}" = copy ] || cargo test --locked --test it pages_live_in_a_browser
for page in runs repo pull run-compared run-live log deliveries pools; do
  for theme in light dark; do
    pngquant --force --quality 60-90 --strip --output "docs/images/$page-$theme.png" "target/screenshots/$page-$theme.png"
  done
done
du -sh docs/images
