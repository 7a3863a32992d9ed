#!/usr/bin/env bash
# Builds the hook of Prow, a peer of the intake benchmark, as target/prow/hook from its Go module.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v0.0.0-20240619181241-cfb8754e0459
mkdir -p target/prow/src
cd target/prow/src
cat >go.mod <<MOD
module hook
go 1.23
require sigs.k8s.io/prow $version
MOD
cat >tools.go <<GO
//go:build tools

package tools

import _ "sigs.k8s.io/prow/cmd/hook"
GO
go get "sigs.k8s.io/prow@$version" "golang.org/x/tools@v0.26.0" >../get.log 2>&1 || { tail -n 5 ../get.log >&2; exit 1; }
go mod tidy >../tidy.log 2>&1 || true
go build -mod=mod -trimpath -o ../hook sigs.k8s.io/prow/cmd/hook >../build.log 2>&1 || { tail -n 5 ../build.log >&2; exit 1; }
