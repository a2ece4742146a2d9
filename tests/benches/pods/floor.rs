//! What the kernel takes for one pod when nobody adds anything: namespaces, a veth pair on a bridge, cgroups with limits, an
//! overlay root, `/proc`, pivot_root, exec. The network part goes through `podd_net`, whose own share is small.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use podd_sys::fork::{Birth, Forked, fork};
use podd_sys::mount::{
    MountAttr, Overlay, attach, filesystem, make_all_private, overlay, pivot_into_working_directory,
};
use podd_sys::namespace::{Kind, PodNamespacesSpec, create_pod_namespaces, enter};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

/// The v1 controllers that a container is in, and what is written.
const GROUPS: &[(&str, &[(&str, &str)])] = &[
    ("memory", &[("memory.limit_in_bytes", "67108864")]),
    ("cpu", &[("cpu.shares", "10"), ("cpu.cfs_quota_us", "50000")]),
    ("pids", &[("pids.max", "1000")]),
    ("cpuset", &[("cpuset.cpus", "0"), ("cpuset.mems", "0")]),
    ("devices", &[("devices.deny", "a"), ("devices.allow", "c 1:3 rwm"), ("devices.allow", "c 1:5 rwm")]),
];

/// Makes a pod `count` times; each time until its process has exec'd and ended.
pub(crate) fn measure(count: usize) -> Vec<Duration> {
    let directory = tempfile::Builder::new().prefix("podd-floor-").tempdir().expect("a directory");
    let path = directory.path();
    let lower = path.join("lower");
    fs::create_dir_all(lower.join("bin")).expect("made");
    fs::create_dir(lower.join("proc")).expect("made");
    fs::copy("/bin/busybox", lower.join("bin/true")).expect("busybox-static is installed");
    let config = podd_net::Config::new("floor", &path.join("net"), "boot");
    let network = podd_net::Network::open(config).expect("a network");
    let times = (0..count).map(|number| one(path, &lower, &network, number)).collect();
    network.shutdown().expect("no pod is left");
    times
}

fn one(path: &Path, lower: &Path, network: &podd_net::Network, number: usize) -> Duration {
    let name = format!("podd-floor-{}-{number}", std::process::id());
    let (upper, work) = (path.join(format!("upper{number}")), path.join(format!("work{number}")));
    let begin = Instant::now();
    let spec = PodNamespacesSpec { net: true, ipc: true, uts: true, ..Default::default() };
    let namespaces = create_pod_namespaces(&spec).expect("namespaces");
    let net = namespaces.net.as_ref().expect("asked for");
    network.attach(&name, net.as_fd(), &[]).expect("attached");
    let mut tasks = Vec::new();
    for (controller, limits) in GROUPS {
        let group = Path::new("/sys/fs/cgroup").join(controller).join(&name);
        if fs::create_dir(&group).is_err() {
            continue;
        }
        for (file, value) in *limits {
            fs::write(group.join(file), value).expect("a limit");
        }
        tasks.push(group.join("tasks"));
    }
    fs::create_dir(&upper).expect("made");
    fs::create_dir(&work).expect("made");
    let birth = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    let birth = Birth { namespaces: i32::try_from(birth.bits()).expect("flags"), cgroup: None };
    match fork(&birth).expect("fork") {
        Forked::Child => {
            let child = || -> std::io::Result<()> {
                for (namespace, kind) in
                    [(&namespaces.net, Kind::Net), (&namespaces.ipc, Kind::Ipc), (&namespaces.uts, Kind::Uts)]
                {
                    enter(namespace.as_ref().expect("asked for").as_fd(), kind)?;
                }
                for file in &tasks {
                    fs::write(file, "0")?;
                }
                make_all_private()?;
                let root = overlay(&Overlay { lower: &[lower.to_owned()], upper: Some((&upper, &work)) })?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                attach(root.as_fd(), rustix::fs::openat(CWD, lower, flags, Mode::empty())?.as_fd())?;
                let inside = rustix::fs::openat(CWD, lower, flags, Mode::empty())?;
                rustix::process::fchdir(&inside)?;
                let proc = filesystem("proc", &[], MountAttr::default())?;
                attach(proc.as_fd(), rustix::fs::openat(CWD, "proc", flags, Mode::empty())?.as_fd())?;
                pivot_into_working_directory()?;
                podd_sys::exec::execve(c"/bin/true", &[c"true".to_owned()], &[])?;
                Ok(())
            };
            let failed = child();
            eprintln!("floor: {failed:?}");
            podd_sys::fork::exit_now(1)
        }
        Forked::Parent { pid, .. } => {
            let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
            let (_, status) = waitpid(pid, WaitOptions::empty()).expect("a child").expect("ended");
            assert_eq!(status.exit_status(), Some(0), "the floor's process failed");
        }
    }
    let taken = begin.elapsed();
    network.detach(&name).expect("detached");
    for file in tasks {
        fs::remove_dir(file.parent().expect("in its group")).expect("empty");
    }
    taken
}
