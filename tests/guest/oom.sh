# Applies a pod of which one container takes more memory than it may, and prints the pod when that is known, with the limits
# of its groups and what the guest has of memory and swap.
dd if=/dev/zero of=/tmp/swap bs=1M count=64 && losetup /dev/loop0 /tmp/swap && mkswap /dev/loop0 && swapon /dev/loop0 || exit 1
printf '[agent]\nswap-behavior = "LimitedSwap"\n' > /tests/config.toml
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
await podd agent status
podd load -i /tests/busybox.tar || fail "load"
podd apply -f /tests/pod.yaml || fail "apply"
await oomkilled
grep -E '^(MemTotal|SwapTotal):' /proc/meminfo
for file in cpu.max memory.max memory.swap.max pids.max; do
    find /sys/fs/cgroup -name $file | while read -r path; do echo "$path: $(cat "$path")"; done
done | grep -v ': max'
echo "@pod"
podd get pod oom -o json
