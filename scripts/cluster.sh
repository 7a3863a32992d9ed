#!/usr/bin/env bash
# A real Kubernetes of one node for the tests, without Docker, in network, mount and process namespaces of its own.
#   scripts/cluster.sh build         the binaries into target/cluster/bin (about 9 minutes once, then nothing)
#   scripts/cluster.sh up            starts it, or finds it running; prints the variables that the tests read
#   scripts/cluster.sh load FILE     imports an image archive
#   scripts/cluster.sh kueue         builds Kueue's controller (about 3 minutes once), imports its image, prints where its chart lies
#   scripts/cluster.sh kill PART     kill -9 of kube-apiserver, etcd, kubelet, ...
#   scripts/cluster.sh start PART    starts that part again
#   scripts/cluster.sh down          ends all of it; no process, mount, interface or cgroup stays
# State lies in target/cluster/run. TRAINYARD_TEST_KUBECONFIG names a cluster to use instead; then nothing of this is needed.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$here/target/cluster/bin
run=$here/target/cluster/run
parts="etcd containerd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns fake-gpu policies"

die() { echo "cluster: $*" >&2; exit 1; }

build() {
    "$here/tests/cluster/build.sh"
    "$here/tests/cluster/tools.sh"
}

# Every cluster of this machine has a number of its own: its addresses, interfaces and cgroups follow from it.
numbers() {
    host=10.251.$n.1 node=10.251.$n.2 pods=10.245.$n.0/24 services=10.97.$n.0/24 api=10.97.$n.1 cgroup=tykube$n
}

inside() { nsenter -t "$holder" -m -n -p -- "$@"; }

running() {
    [ -f "$run/number" ] && [ -f "$run/holder" ] || return 1
    n=$(cat "$run/number") holder=$(cat "$run/holder")
    numbers
    # The holder's start time keeps a process that got the same id later from being taken for it.
    [ "$(cut -d' ' -f22 "/proc/$holder/stat" 2>/dev/null)" = "$(cat "$run/holder.started" 2>/dev/null)" ]
}

certificate() { # name, common name, organisation, alternative names
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$run/pki/$1.key" -out "$run/pki/$1.csr" \
        -subj "/O=$3/CN=$2" 2>/dev/null
    openssl x509 -req -in "$run/pki/$1.csr" -CA "$run/pki/ca.crt" -CAkey "$run/pki/ca.key" -CAcreateserial -days 30 -out "$run/pki/$1.crt" \
        -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s' "${4:+subjectAltName=$4}") 2>/dev/null
}

kubeconfig() { # file, certificate's name
    local encode="base64 -w0"
    cat >"$run/$1" <<YAML
apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: "https://$node:6443", certificate-authority-data: $($encode "$run/pki/ca.crt")}}]
users: [{name: it, user: {client-certificate-data: $($encode "$run/pki/$2.crt"), client-key-data: $($encode "$run/pki/$2.key")}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
YAML
}

configure() {
    rm -rf "$run"
    mkdir -p "$run"/{pki,log,pid,etcd,containerd,kubelet,cni-state,cni,pods}
    chmod 700 "$run"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=it -keyout "$run/pki/ca.key" -out "$run/pki/ca.crt" 2>/dev/null
    openssl genrsa -out "$run/pki/accounts.key" 2048 2>/dev/null
    certificate api it system:masters "IP:$node,IP:$api,IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost"
    certificate node system:node:node1 system:nodes "IP:$node"
    certificate admin admin system:masters
    certificate manager system:kube-controller-manager it
    certificate scheduler system:kube-scheduler it
    certificate proxy system:kube-proxy it
    local name
    for name in admin manager scheduler proxy node; do kubeconfig "$name.kubeconfig" "$name"; done
    cat >"$run/containerd.toml" <<TOML
version = 2
root = "$run/containerd"
state = "/run/containerd/state"
[grpc]
  address = "/run/containerd/it.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/trainyard-test/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$run/cni"
TOML
    # Point-to-point links rather than a bridge: whatever one pod sends another is routed, and so can be filtered.
    cat >"$run/cni/10-it.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "it", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "$run/cni-state", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    cat >"$run/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $run/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
containerRuntimeEndpoint: unix:///run/containerd/it.sock
clusterDNS: ["$node"]
clusterDomain: cluster.local
failSwapOn: false
tlsCertFile: $run/pki/node.crt
tlsPrivateKeyFile: $run/pki/node.key
readOnlyPort: 0
serializeImagePulls: false
maxPods: 200
podLogsDir: /var/log/pods
nodeStatusUpdateFrequency: 5s
evictionHard: {nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%", memory.available: "0%"}
imageGCHighThresholdPercent: 100
volumePluginDir: $run/kubelet-plugins
YAML
    cat >"$run/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $pods
hostnameOverride: node1
clientConnection: {kubeconfig: $run/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
    cat >"$run/Corefile" <<DNS
.:53 {
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $run/admin.kubeconfig
        ttl 2
    }
    cache 2
}
DNS
    # What trainyard's own account does is written down, verb by verb; and the administrator's, whom the benchmark is.
    cat >"$run/audit.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: Metadata, userGroups: ["system:serviceaccounts:trainyard"]}
  - {level: Metadata, users: [admin]}
  - {level: None}
YAML
}

command_of() {
    case $1 in
    etcd) echo "/usr/bin/etcd --data-dir $run/etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --log-level warn" ;;
    containerd) echo "/usr/bin/containerd --config $run/containerd.toml --log-level warn" ;;
    kube-apiserver) echo "$bin/kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 --advertise-address $node --secure-port 6443 \
        --allow-privileged=true --service-cluster-ip-range $services --authorization-mode Node,RBAC --client-ca-file $run/pki/ca.crt \
        --tls-cert-file $run/pki/api.crt --tls-private-key-file $run/pki/api.key --kubelet-client-certificate $run/pki/api.crt \
        --kubelet-client-key $run/pki/api.key --kubelet-certificate-authority $run/pki/ca.crt --kubelet-preferred-address-types InternalIP \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file $run/pki/accounts.key \
        --service-account-signing-key-file $run/pki/accounts.key --requestheader-client-ca-file $run/pki/ca.crt \
        --requestheader-allowed-names it --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
        --requestheader-extra-headers-prefix X-Remote-Extra- --proxy-client-cert-file $run/pki/api.crt --proxy-client-key-file $run/pki/api.key \
        --audit-policy-file $run/audit.yaml --audit-log-path $run/audit.log --enable-aggregator-routing=true" ;;
    kube-controller-manager) echo "$bin/kube-controller-manager --kubeconfig $run/manager.kubeconfig --leader-elect=false --kube-api-qps 300 --kube-api-burst 600 \
        --service-account-private-key-file $run/pki/accounts.key --root-ca-file $run/pki/ca.crt --use-service-account-credentials=true \
        --node-monitor-grace-period 20s --terminated-pod-gc-threshold 0" ;;
    kube-scheduler) echo "$bin/kube-scheduler --kubeconfig $run/scheduler.kubeconfig --leader-elect=false --kube-api-qps 300 --kube-api-burst 600" ;;
    kubelet) echo "$bin/kubelet --kubeconfig $run/node.kubeconfig --config $run/kubelet.yaml --hostname-override node1 --node-ip $node" ;;
    kube-proxy) echo "$bin/kube-proxy --config $run/proxy.yaml" ;;
    coredns) echo "$bin/coredns -conf $run/Corefile -quiet" ;;
    fake-gpu) echo "$bin/fake-gpu --count 8" ;;
    policies) echo "$bin/policies --kubeconfig $run/admin.kubeconfig" ;;
    *) die "there is no part $1; the parts are $parts" ;;
    esac
}

start() {
    local line
    line=$(command_of "$1")
    # In a shell that lets go of the lock and of our output: it waits as long as the part lives.
    # shellcheck disable=SC2086
    (
        exec 8>&- </dev/null >/dev/null 2>&1
        exec nsenter -t "$holder" -m -n -p -- setsid bash -c 'echo $$ >'"$run/pid/$1"'; exec "$@" >>'"$run/log/$1.log"' 2>&1' part $line
    ) &
}

stop() {
    [ ! -f "$run/pid/$1" ] || inside kill -9 "$(cat "$run/pid/$1")" 2>/dev/null || true
    rm -f "$run/pid/$1"
}

wait_for() { # what, seconds, command
    local until=$((SECONDS + $2))
    while ! "${@:3}" >/dev/null 2>&1; do
        running || die "its namespaces ended while waiting for $1; logs: $run/log"
        [ $SECONDS -lt $until ] || die "waited $2 s in vain for $1; logs: $run/log"
        sleep 0.2
    done
}

k() { "$bin/kubectl" --kubeconfig "$run/admin.kubeconfig" "$@"; }

# The first process of the namespaces. Everything else ends with it.
hold() {
    mount --bind "$run/kubelet" /var/lib/kubelet
    mount -t tmpfs it /run/netns
    mount -t tmpfs it /run/containerd
    mount -t tmpfs it /var/log/containers
    mount -t tmpfs it /var/log/pods
    mount --make-rshared /
    echo 1 >/proc/sys/net/ipv4/ip_forward
    ip link set lo up
    : >"$run/held"
    while :; do sleep 3600 & wait || true; done
}

up() {
    exec 8>"$here/target/cluster/lock"
    flock 8
    if running && k get --raw /readyz >/dev/null 2>&1; then describe; return; fi
    down >&2
    [ "$(id -u)" -eq 0 ] || die "needs root: it makes namespaces and mounts"
    local tool began=$SECONDS
    for tool in etcd containerd runc nft ip; do command -v "$tool" >/dev/null || die "$tool is missing; run scripts/setup.sh tests"; done
    n=0
    while ip link show "tykube${n}h" >/dev/null 2>&1; do n=$((n + 1)); done
    [ $n -lt 250 ] || die "250 clusters run here already"
    numbers
    configure
    mkdir -p /var/lib/kubelet /run/netns /run/containerd /var/log/containers /var/log/pods
    local controller
    for controller in /sys/fs/cgroup/*/; do
        [ -f "$controller/cgroup.procs" ] && [ ! -f "$controller/cgroup.controllers" ] || continue
        mkdir -p "$controller/$cgroup"
        if [ -f "$controller/cpuset.cpus" ]; then
            cat "$controller/cpuset.cpus" >"$controller/$cgroup/cpuset.cpus"
            cat "$controller/cpuset.mems" >"$controller/$cgroup/cpuset.mems"
        fi
    done
    [ ! -f /sys/fs/cgroup/cgroup.controllers ] || mkdir -p "/sys/fs/cgroup/$cgroup"
    setsid unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
        bash "$0" hold >"$run/log/holder.log" 2>&1 </dev/null 8>&- &
    local outer=$!
    until [ -f "$run/held" ]; do
        kill -0 $outer 2>/dev/null || { cat "$run/log/holder.log" >&2; die "the namespaces cannot be made"; }
        sleep 0.05
    done
    holder=$(tr -d ' ' <"/proc/$outer/task/$outer/children")
    echo "$holder" >"$run/holder"
    cut -d' ' -f22 "/proc/$holder/stat" >"$run/holder.started"
    echo "$n" >"$run/number"
    ip link add "tykube${n}h" type veth peer name uplink netns "$holder"
    ip addr add "$host/30" dev "tykube${n}h"
    ip link set "tykube${n}h" up
    inside ip addr add "$node/30" dev uplink
    inside ip link set uplink up
    inside ip route add default via "$host"
    ip route replace "$pods" via "$node"
    ip route replace "$services" via "$node"
    start etcd
    start containerd
    start kube-apiserver
    wait_for "containerd" 60 inside ctr -a /run/containerd/it.sock version
    python3 "$here/tests/cluster/images.py" "$run/images" >&2
    local image
    for image in "$run"/images/*.tar; do load "$image" >&2; done
    wait_for "the API server" 90 k get --raw /readyz
    start kube-controller-manager
    start kube-scheduler
    start kubelet
    start kube-proxy
    start coredns
    start policies
    start fake-gpu
    wait_for "the node" 90 node_ready
    wait_for "the default service account" 30 k get serviceaccount default
    echo "cluster: Kubernetes $(k version -o json | grep -m1 -o 'v1\.34[^"]*') is ready after $((SECONDS - began)) s (number $n)" >&2
    describe
}

node_ready() {
    k get node node1 -o "jsonpath={.status.conditions[?(@.type=='Ready')].status}:{.status.allocatable.nvidia\.com/gpu}:{.spec.taints}" | grep -q "^True:8:$"
}

describe() { printf 'KUBECONFIG=%s\nHOST=%s\nNODE=%s\nBIN=%s\nRUN=%s\n' "$run/admin.kubeconfig" "$host" "$node" "$bin" "$run"; }

# Its chart comes with its sources.
kueue() {
    "$here/tests/cluster/tools.sh" kueue >&2
    python3 "$here/tests/cluster/images.py" "$run/images" --kueue "$bin/kueue" >&2
    load "$run/images/kueue.tar" >&2
    echo "$(go list -m -f '{{.Dir}}' "sigs.k8s.io/kueue@$(cat "$bin/.kueue")")/charts/kueue"
}

load() { inside ctr -a /run/containerd/it.sock -n k8s.io images import --no-unpack=false "$1" >/dev/null 2>&1 || inside ctr -a /run/containerd/it.sock -n k8s.io images import "$1"; }

down() {
    if running; then
        kill -9 "$holder" || true
        local until=$((SECONDS + 20))
        while [ -d "/proc/$holder" ] && [ $SECONDS -lt $until ]; do sleep 0.05; done
    fi
    if [ -f "$run/number" ]; then
        n=$(cat "$run/number")
        numbers
        ip link del "tykube${n}h" 2>/dev/null || true
        local controller tries
        for tries in 1 2 3 4 5 6 7 8 9 10; do
            for controller in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
                [ ! -d "$controller/$cgroup" ] || find "$controller/$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
            done
            compgen -G "/sys/fs/cgroup/*/$cgroup" >/dev/null || [ -d "/sys/fs/cgroup/$cgroup" ] || break
            sleep 0.2
        done
    fi
    rm -rf "$run"
}

case ${1:-} in
build) build ;;
up) build >&2; up ;;
hold) hold ;;
kueue) running || die "it is not up"; kueue ;;
load) running || die "it is not up"; load "$2" ;;
kill) running || die "it is not up"; stop "$2" ;;
start) running || die "it is not up"; start "$2" ;;
down) down ;;
*) sed -n '2,11p' "$0" | sed 's/^# \?//'; exit 2 ;;
esac
