#!/usr/bin/env bash
# Builds what the test cluster needs beside Kubernetes into target/cluster/bin, each once per version: CoreDNS and helm, about
# two minutes each on two cores. With the word `kueue` Kueue's controller instead, which the long forms alone need.
set -euo pipefail
cd "$(dirname "$0")"
helm=v3.19.2
kueue=v0.10.0
mkdir -p ../../target/cluster/bin
bin=$(cd ../../target/cluster/bin && pwd)

built() { # name, stamp
    [ "$(cat "$bin/.$1" 2>/dev/null)" = "$2" ] && [ -x "$bin/$1" ]
}

build() { # name, stamp, command
    echo "cluster: building $1 (about 2 minutes on two cores, once) ..."
    local started=$SECONDS cache=${TRAINYARD_CLUSTER_GOCACHE:-$(mktemp -d)}
    CGO_ENABLED=0 GOCACHE=$cache nice "${@:3}"
    # A cache of its own: it grows and nothing else needs it.
    [ -n "${TRAINYARD_CLUSTER_GOCACHE:-}" ] || rm -rf "$cache"
    echo "$2" >"$bin/.$1"
    echo "cluster: built $1 in $((SECONDS - started)) s"
}

if [ "${1:-}" = kueue ]; then
    built kueue $kueue || GOBIN=$bin build kueue $kueue go install -trimpath -ldflags "-s -w" "sigs.k8s.io/kueue/cmd/kueue@$kueue"
    exit
fi

built helm $helm || GOBIN=$bin build helm $helm go install -trimpath \
    -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$helm" "helm.sh/helm/v3/cmd/helm@$helm"

dns=$(cat dns/main.go dns/go.mod dns/go.sum | sha256sum | cut -c1-16)
built coredns "$dns" || GOFLAGS=-mod=mod build coredns "$dns" go build -C dns -trimpath -ldflags "-s -w" -o "$bin/coredns" .
