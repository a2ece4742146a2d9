#!/bin/sh
# The five-minute tour by itself: demo.sh PODD. A node of its own in a temporary directory, the pod of web.yaml on it, and
# nothing left of either.
set -eu
podd=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
export PODD_INSTANCE=demo PODD_ROOT="$work/root" PODD_RUN="$work/run" PODD_LOGS="$work/logs"
export PODD_MANIFESTS="$work/manifests" PODD_CGROUP_ROOT=/podd-demo PODD_CONFIG="$work/config.toml"
cat >"$PODD_CONFIG" <<'EOF'
[network]
subnet = "10.86.0.0/24"
[cni]
network = "podd"
[agent.eviction]
hard = {} # a tour of a minute needs no room to spare
EOF
finish() {
    "$podd" agent stop --pods || true
    rm -rf "$work"
}
trap finish EXIT
if [ "$(id -u)" != 0 ]; then
    echo "podd makes namespaces, control groups and network links: run this as root" >&2
    exit 1
fi
say() {
    printf '\n\033[1m$ podd %s\033[0m\n' "$*"
    "$podd" "$@"
}

"$here/images/busybox.sh" docker.io/library/busybox:example "$work/busybox.tar"
say load -i "$work/busybox.tar"
say apply --wait -f "$here/web.yaml"
say get pods -o wide
printf '\n\033[1m$ curl http://127.0.0.1:18080/\033[0m\n'
curl -fsS --retry 10 --retry-all-errors --retry-delay 1 http://127.0.0.1:18080/
say logs web -c clock --tail 3
say exec web -c server -- ps
say delete -f "$here/web.yaml"
say get pods
