#!/usr/bin/env bash
# Every command of crictl's documentation once, against `podd cri`: session.sh PODD CRICTL IMAGE
#
# Prints the session as it stands in docs/crictl.md; fails when a command does not end as it should. IMAGE has a shell,
# sleep, cat and httpd (busybox), and comes from a registry that podd's configuration (PODD_CONFIG) knows the way to.
# To be run as root in namespaces of its own: unshare --net --mount --propagation private bash session.sh …
set -u
podd=$1 crictl=$2 image=$3
work=$(mktemp -d)
instance=ct$$
mkdir -p "$work/root" "$work/run" "$work/logs" "$work/manifests"
export PODD_INSTANCE=$instance PODD_ROOT=$work/root PODD_RUN=$work/run PODD_LOGS=$work/logs PODD_MANIFESTS=$work/manifests
export PODD_CGROUP_ROOT=/podd-$instance
export CONTAINER_RUNTIME_ENDPOINT=unix://$work/run/cri/cri.sock
: >"$work/crictl.yaml"
failed=0
ip link set lo up
# Somebody else's CNI configuration would be the pods' network.
[ ! -d /etc/cni/net.d ] || mount -t tmpfs none /etc/cni/net.d
"$podd" cri >"$work/podd.log" 2>&1 &
daemon=$!
finish() {
    "$crictl" --config "$work/crictl.yaml" rmp -fa >/dev/null 2>&1
    kill $daemon && wait $daemon
    rm -rf "$work"
}
trap finish EXIT
for _ in $(seq 100); do [ -S "$work/run/cri/cri.sock" ] && break; sleep 0.1; done
if ! [ -S "$work/run/cri/cri.sock" ]; then
    cat "$work/podd.log" >&2
    exit 1
fi

# What differs from run to run: long ids are shortened, the directory of this session gets a name.
plain() {
    sed -E -e "s#$work#/srv#g" -e 's/\b([0-9a-f]{13})[0-9a-f]{51}\b/\1/g' -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e 's/[[:space:]]+$//' \
        -e 's/^time="[^"]*" level=[a-z]* msg="(.*)"$/\1/' | cut -c1-150
}
# ends EXPECTED LINES COMMAND…: shows the command and as many lines of what it says, and checks how it ends.
ends() {
    local expected=$1 lines=$2 code
    shift 2
    echo "# crictl $*" | plain
    timeout 60 "$crictl" --config "$work/crictl.yaml" "$@" >"$work/said" 2>&1 </dev/null
    code=$?
    # A hint of crictl's at each pod that leaves its group to the runtime.
    sed -i '/cgroup_parent is not set/d' "$work/said"
    head -n "$lines" "$work/said" | plain
    [ "$(grep -c . "$work/said")" -le "$lines" ] || echo "…"
    [ "$code" = 0 ] || echo "[exit $code]"
    if [ "$code" != "$expected" ]; then
        echo "session: \`crictl $*\` ended with $code instead of $expected:" >&2
        cat "$work/said" >&2
        failed=1
    fi
}
shows() { ends 0 "$@"; }
quiet() { "$crictl" --config "$work/crictl.yaml" "$@"; }

shows 8 help
shows 3 version
shows 3 info -o go-template --template '{{range .status.conditions}}{{.type}}={{.status}} {{end}}'
shows 5 runtime-config
shows 2 update-runtime-config --pod-cidr 10.85.0.0/16
shows 6 config --list
shows 2 completion bash

shows 3 pull "$image"
shows 3 images
shows 12 inspecti -o yaml "$image"
shows 9 imagefsinfo -o yaml

cat >"$work/pod.json" <<J
{"metadata":{"name":"shell","namespace":"default","uid":"1","attempt":1},"log_directory":"$work/pod","hostname":"shell","linux":{}}
J
cat >"$work/talk.json" <<J
{"metadata":{"name":"talk"},"image":{"image":"$image"},"log_path":"talk.log","linux":{},
 "command":["sh","-c","echo hello from \$(hostname); httpd -p 8080 -h /etc; exec sleep 1000"]}
J
cat >"$work/echo.json" <<J
{"metadata":{"name":"echo"},"image":{"image":"$image"},"log_path":"echo.log","linux":{},
 "command":["cat"],"stdin":true,"stdin_once":true}
J
cat >"$work/other.json" <<J
{"metadata":{"name":"other","namespace":"default","uid":"2","attempt":1},"log_directory":"$work/other","linux":{}}
J
timeout 60 "$crictl" --config "$work/crictl.yaml" events >"$work/events" 2>&1 </dev/null &
events=$!
sleep 0.5
shows 2 runp "$work/pod.json"
pod=$(quiet pods -q --name shell)
shows 4 pods
shows 4 create "$pod" "$work/talk.json" "$work/pod.json"
talk=$(quiet ps -aq --name talk)
shows 2 start "$talk"
shows 2 create "$pod" "$work/echo.json" "$work/pod.json"
echo_=$(quiet ps -aq --name echo)
shows 2 start "$echo_"
shows 6 run "$work/talk.json" "$work/other.json"
shows 6 ps
shows 3 inspectp -o go-template --template '{{.status.state}} {{.status.network.ip}} {{.info.runtimeType}}' "$pod"
shows 3 inspect -o go-template --template '{{.status.state}} {{.status.logPath}} {{.info.snapshotter}} {{.info.runtimeSpec.process.cwd}}' "$talk"
for _ in $(seq 100); do [ -s "$work/pod/talk.log" ] && break; sleep 0.1; done
shows 3 logs --tail 1 "$talk"
shows 8 exec "$talk" ps
shows 1 exec -s "$talk" hostname
ends 1 3 exec -r websocket "$talk" sh -c 'echo out; exit 3'
echo "# echo typed | crictl attach -i ${echo_:0:13}"
echo typed | timeout 20 "$crictl" --config "$work/crictl.yaml" attach -i "$echo_" 2>&1 | plain
echo "# crictl port-forward ${pod:0:13} 18080:8080 &"
timeout 30 "$crictl" --config "$work/crictl.yaml" port-forward "$pod" 18080:8080 >"$work/forward" 2>&1 </dev/null &
forward=$!
for _ in $(seq 100); do grep -q Forwarding "$work/forward" && break; sleep 0.1; done
plain <"$work/forward" | head -n 2
echo "# curl -s http://127.0.0.1:18080/hostname"
curl -sS --max-time 10 http://127.0.0.1:18080/hostname || failed=1
kill $forward
shows 2 update --cpu-share 512 "$talk"
shows 4 stats
shows 4 statsp
shows 6 metricdescs
shows 12 metricsp
ends 1 2 checkpoint --export="$work/talk.tar" "$talk"
shows 2 stop "$talk"
shows 2 rm "$talk"
shows 2 stopp "$pod"
shows 3 rmp "$pod"
shows 3 rmp -fa
shows 3 rmi "$image"
kill $events
echo "# crictl events"
wait $events 2>/dev/null
tr -d '\n' <"$work/events" | grep -oE '"containerEventType": *"[A-Z_]+"' | sort | uniq -c | sed -E 's/^ +//; s/"containerEventType": *//; s/"//g'
exit $failed
