#!/usr/bin/env bash
# Builds the image of the Dockerfile without pulling a base: a Debian root made by apt-get, git and ca-certificates in it,
# the static binary on top. Runs `git --version` in it as uid 65532 and prints the compressed size (limit 120 MB).
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "image: run as root" >&2; exit 1; }
missing=()
for package in buildah mmdebstrap; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }

echo "image: static binary"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target x86_64-unknown-linux-gnu --bin trainyard
binary=target/x86_64-unknown-linux-gnu/release/trainyard

work=$(mktemp -d)
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
store=(--root "$work/store" --runroot "$work/run")
trap 'rm -rf "$work"' EXIT
echo "image: Debian root"
mmdebstrap --quiet --variant=minbase --include=git,ca-certificates --aptopt='APT::Install-Recommends "false"' \
  bookworm "$work/root.tar" /etc/apt/sources.list.d/*.sources 2>"$work/mmdebstrap.log" || { tail -n 20 "$work/mmdebstrap.log" >&2; exit 1; }

echo "image: layers"
container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" add --quiet "$container" "$work/root.tar" / >/dev/null
buildah "${store[@]}" copy --quiet --chmod 0755 "$container" "$binary" /usr/local/bin/trainyard >/dev/null
buildah "${store[@]}" config --user 65532:65532 --entrypoint '["/usr/local/bin/trainyard"]' \
  --cmd 'serve --config /etc/trainyard/trainyard.toml' "$container"
buildah "${store[@]}" run --user 65532:65532 "$container" -- git --version
buildah "${store[@]}" run --user 65532:65532 "$container" -- /usr/local/bin/trainyard --version
buildah "${store[@]}" commit --quiet --disable-compression=false "$container" "oci-archive:$work/image.tar:trainyard:local" >/dev/null
bytes=$(stat -c %s "$work/image.tar")
echo "FIGURE image_compressed_mb=$((bytes / 1000000)) limit=120 binary_mb=$(($(stat -c %s "$binary") / 1000000))"
[ "$bytes" -le 120000000 ]
