# Runs a pod whose containers runc makes, one of which takes more memory than it may, and prints its limits and the pod; then
# nothing of it is to be left.
printf '[runtime.handlers.runc]\npath = "runc"\n' > /tests/config.toml
export PODD_CONFIG=/tests/config.toml
podd agent > /tmp/agent 2>&1 &
agent=$!
fail() { echo "$1"; podd describe pod oom; cat /tmp/agent; exit 1; }
# Waits for a command to succeed, for a minute.
await() {
    tries=0
    until "$@" > /tmp/last 2>&1; do
        kill -0 $agent || fail "the agent has ended"
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail "in vain: $*: $(cat /tmp/last)"
        sleep 0.2
    done
}
oomkilled() { podd get pod oom -o json | grep -q OOMKilled; }
groups() { find /sys/fs/cgroup/kubepods -path '*/pod*' -type d; }
gone() { [ -z "$(groups)$(ls /run/podd/oci/runc)" ]; }
await podd agent status
podd load -i /tests/busybox.tar || fail "load"
# Without the last container, which is about swap: runc is slow here.
sed -e 's/^spec:/spec:\n  runtimeClassName: runc/' -e '/name: spacious/,$d' /tests/pod.yaml > /tests/runc.yaml
printf -- '---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: runc}\nhandler: runc\n' >> /tests/runc.yaml
podd apply -f /tests/runc.yaml || fail "apply"
await oomkilled
[ "$(ls /run/podd/oci/runc | wc -l)" -ge 1 ] || fail "runc has made none"
for file in cpu.max memory.max pids.max; do
    find /sys/fs/cgroup -name $file | while read -r path; do echo "$path: $(cat "$path")"; done
done | grep -v ': max'
podd exec oom -c modest -- sh -c 'cat /proc/self/cgroup; echo x > /dev/null; exit 7' > /tmp/said 2>&1
[ $? = 7 ] || fail "exec: $(cat /tmp/said)"
grep -q '^0::/$' /tmp/said || fail "exec in another group: $(cat /tmp/said)"
echo "@pod"
podd get pod oom -o json
podd delete pod oom > /tmp/said 2>&1 || fail "delete: $(cat /tmp/said)"
await gone
