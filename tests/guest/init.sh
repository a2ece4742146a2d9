#!/bin/busybox sh
# The guest's first process. Makes the machine that the jobs expect, runs them one after the other, tells how each
# ended on the second serial line, and switches off.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root RUST_BACKTRACE=1 TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
ln -sf /proc/self/fd /dev/fd
while read -r module; do insmod "/modules/$module" || echo "guest: no module $module"; done < /modules/order
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Overlay wants a file system with extended attributes for what it writes.
for directory in /tmp /var /run; do mount -t tmpfs tmpfs $directory; done
mkdir -p /var/lib /var/log
ip link set lo up
stty -F /dev/ttyS1 -onlcr
exec > /dev/ttyS1 2>&1 < /dev/null
# The file system that the kernel unpacked cannot be pivoted away from; one mounted over it can.
mkdir /run/root
mount --rbind / /run/root
cd /run/root
mount --move . /
exec chroot . /bin/sh -c '
    cd /
    for job in /jobs/*; do
        name=${job##*/}
        echo "@guest begin $name"
        timeout -s KILL 90 sh "$job"
        echo "@guest end $name $?"
    done
    reboot -f
'
