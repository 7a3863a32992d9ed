#!/usr/bin/env bash
# Builds the test cluster's one binary into target/cluster/bin, once per version of these sources. About 5 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")"
version=v1.34.4
bin=../../target/cluster/bin
mkdir -p "$bin"
stamp=$(cat ./*.go go.mod go.sum build.sh | sha256sum | cut -c1-16)
if [ "$(cat "$bin/.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$bin/kube" ]; then exit 0; fi
echo "cluster: building Kubernetes $version (about 5 minutes on two cores, once) ..."
ld="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ld+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=34"
    ld+=" -X $package.gitCommit=0000000000000000000000000000000000000000 -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
done
# A cache of its own, deleted afterwards: it grows to several gigabytes and nothing else needs it.
cache=${TRAINYARD_CLUSTER_GOCACHE:-$(mktemp -d)}
started=$SECONDS
CGO_ENABLED=0 GOFLAGS=-mod=mod GOCACHE=$cache nice go build -trimpath -ldflags "$ld" -o "$bin/kube.new" .
if [ -z "${TRAINYARD_CLUSTER_GOCACHE:-}" ]; then rm -rf "$cache"; fi
mv "$bin/kube.new" "$bin/kube"
for part in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl fake-gpu policies dial; do
    ln -sf kube "$bin/$part"
done
echo "$stamp" > "$bin/.stamp"
echo "cluster: built in $((SECONDS - started)) s"
