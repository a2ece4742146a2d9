#!/bin/busybox sh
# The guest's first process. Makes the machine that the jobs expect, and hands over to jobs.sh.
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
ln -s /run /var/run
ip link set lo up
stty -F /dev/ttyS1 -onlcr
# The file system that the kernel unpacked cannot be pivoted away from; one mounted over it can.
mkdir /run/root
mount --rbind / /run/root
cd /run/root
mount --move . /
# Where systemd is, it becomes the first process, and runs the jobs as a service of its own.
[ -x lib/systemd/systemd ] && exec chroot . /lib/systemd/systemd --unit=jobs.service
exec chroot . /bin/sh /jobs.sh
