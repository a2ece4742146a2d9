//! Namespaces made and entered without the calling thread leaving its own.
//!
//! A thread that has entered another network namespace must never come back to a pool of workers; so the work is done by a
//! thread made for it, which ends afterwards.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::procfs;

/// Which namespaces a pod gets and what is written inside before anybody enters.
#[derive(Debug, Clone, Default)]
pub struct PodNamespacesSpec {
    /// A network namespace of its own.
    pub net: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// A UTS namespace of its own.
    pub uts: bool,
    /// Host name, for an own UTS namespace.
    pub hostname: Option<String>,
    /// Sysctls by dotted name. The caller has checked that each belongs to a namespace the pod owns.
    pub sysctls: Vec<(String, String)>,
}

/// A pod's namespaces, alive as long as the descriptors are or a process is inside.
#[derive(Debug)]
pub struct PodNamespaces {
    /// Network.
    pub net: Option<OwnedFd>,
    /// IPC.
    pub ipc: Option<OwnedFd>,
    /// UTS.
    pub uts: Option<OwnedFd>,
}

/// Makes a pod's namespaces. The error names the sysctl when one was refused.
pub fn create_pod_namespaces(spec: &PodNamespacesSpec) -> io::Result<PodNamespaces> {
    in_own_thread(|| {
        let wanted =
            [(spec.net, UnshareFlags::NEWNET), (spec.ipc, UnshareFlags::NEWIPC), (spec.uts, UnshareFlags::NEWUTS)];
        let flags = wanted.iter().filter(|(own, _)| *own).map(|(_, flag)| *flag).collect();
        // SAFETY: none of these flags touches the descriptor table or the memory of other threads (no CLONE_FILES, no
        // CLONE_FS); only this thread moves, and it ends with this closure.
        unsafe { unshare_unsafe(flags) }?;
        if let Some(hostname) = spec.hostname.as_ref().filter(|_| spec.uts) {
            rustix::system::sethostname(hostname.as_bytes())?;
        }
        for (name, value) in &spec.sysctls {
            procfs::write_sysctl(name, value)
                .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))?;
        }
        let open = |own: bool, name: &str| own.then(|| open_own(name)).transpose();
        Ok(PodNamespaces { net: open(spec.net, "net")?, ipc: open(spec.ipc, "ipc")?, uts: open(spec.uts, "uts")? })
    })
}

/// Runs `work` inside a network namespace, in a thread of its own.
pub fn with_netns<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    in_own_thread(|| {
        enter(netns, Kind::Net)?;
        work()
    })
}

/// A raw netlink socket of `protocol` (netlink(7)) in a network namespace, or in this thread's when none is given. The
/// socket stays there whoever uses it.
pub fn netlink_socket(protocol: u32, netns: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let open = || {
        let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
        Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
    };
    match netns {
        Some(netns) => with_netns(netns, open),
        None => open(),
    }
}

/// A TCP socket in a network namespace, not connected and not blocking. It stays there whoever uses it.
pub fn tcp_socket(netns: BorrowedFd<'_>, v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    with_netns(netns, || {
        Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
    })
}

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Net,
    /// IPC.
    Ipc,
    /// UTS.
    Uts,
    /// PID: for children made afterwards.
    Pid,
    /// Mounts; the process must be single-threaded.
    Mount,
    /// Cgroup.
    Cgroup,
    /// User; the process must be single-threaded.
    User,
}

impl Kind {
    /// The kind's name under `/proc/PID/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }

    fn link_type(self) -> LinkNameSpaceType {
        match self {
            Self::Net => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
            Self::User => LinkNameSpaceType::User,
        }
    }
}

/// Moves this thread into a namespace; for threads and processes made for that.
pub fn enter(namespace: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(kind.link_type()))?)
}

/// This thread's namespace of a kind.
pub fn open_own(name: &str) -> io::Result<OwnedFd> {
    open_of("thread-self", name)
}

/// A process's namespace. The pid has to be one that the caller keeps from being reused.
pub fn open_of_process(pid: u32, kind: Kind) -> io::Result<OwnedFd> {
    open_of(&pid.to_string(), kind.name())
}

/// The link is a magic one, which the verified open of [`procfs`] refuses on purpose: so its directory is opened verified
/// and the link followed from there.
fn open_of(process: &str, name: &str) -> io::Result<OwnedFd> {
    let directory = procfs::open(&Path::new(process).join("ns"), OFlags::PATH | OFlags::DIRECTORY)?;
    Ok(rustix::fs::openat(&directory, name, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?)
}

/// A range of ids: `count` from `inside` of a user namespace are those from `outside` of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first inside.
    pub inside: u32,
    /// The first outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Gives a user namespace its ids, by a process in it (user_namespaces(7)). It can be done once.
pub fn map_ids(pid: u32, uids: &[IdRange], gids: &[IdRange]) -> io::Result<()> {
    for (file, ranges) in [("gid_map", gids), ("uid_map", uids)] {
        let lines: Vec<String> =
            ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect();
        procfs::write(Path::new(&pid.to_string()).join(file), &lines.concat())?;
    }
    Ok(())
}

/// Makes files as another user from now on, keeping the capabilities. For single-threaded processes.
pub fn own_files_as(uid: u32, gid: u32) -> io::Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    // SAFETY: the calls take a number and touch no memory; they tell the former id, never an error, and change nothing
    // for a number that is no id. An id from 2^31 up comes back as a negative number.
    let set_group = |gid: u32| unsafe { libc::setfsgid(gid) }.cast_unsigned();
    // SAFETY: as above.
    let set_user = |uid: u32| unsafe { libc::setfsuid(uid) }.cast_unsigned();
    for (set, id) in [(&set_group as &dyn Fn(u32) -> _, gid), (&set_user, uid)] {
        let _former = set(id);
        if set(u32::MAX) != id {
            return Err(rustix::io::Errno::PERM.into());
        }
    }
    // Leaving user 0 took those away that are about files (capabilities(7)).
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Puts this single-threaded process into new namespaces (`CLONE_NEW*`).
pub fn unshare_own(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: with CLONE_FILES the descriptor table would be copied, which is what `unshare_unsafe` warns of: threads
    // that hold descriptors would see another table. The flag is masked out.
    Ok(unsafe { unshare_unsafe(flags & !UnshareFlags::FILES) }?)
}

fn in_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("namespace".into()).stack_size(256 << 10);
        match worker.spawn_scoped(scope, work)?.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::fs::MetadataExt};

    use super::*;

    fn link(name: &str) -> String {
        std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap().display().to_string()
    }

    #[test]
    fn a_pods_namespaces_are_new_and_this_thread_stays() {
        let before = (link("net"), link("uts"));
        let spec = PodNamespacesSpec {
            net: true,
            ipc: true,
            uts: true,
            hostname: Some("inside".into()),
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())],
        };
        let made = create_pod_namespaces(&spec).unwrap();
        assert_eq!((link("net"), link("uts")), before);
        let netns = made.net.unwrap();
        let inside = with_netns(netns.as_fd(), || {
            let value = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
            Ok((link("net"), value))
        });
        let (net, value) = inside.unwrap();
        assert_ne!(net, before.0);
        assert_eq!(value, "0\n");
        assert!(made.ipc.is_some());
        let uts = made.uts.unwrap();
        let name = in_own_thread(|| {
            enter(uts.as_fd(), Kind::Uts)?;
            Ok(rustix::system::uname().nodename().to_string_lossy().into_owned())
        });
        assert_eq!(name.unwrap(), "inside");
    }

    #[test]
    fn files_are_made_as_any_user_there_can_be() {
        let directory = tempfile::tempdir().unwrap();
        for id in [65_536, 2_543_190_016, u32::MAX - 1] {
            let file = directory.path().join(id.to_string());
            let made = in_own_thread(|| {
                own_files_as(id, id - 1)?;
                std::fs::write(&file, "")
            });
            made.unwrap();
            let metadata = std::fs::metadata(&file).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (id, id - 1));
        }
    }

    #[test]
    fn a_refused_sysctl_is_named() {
        let spec = PodNamespacesSpec { sysctls: vec![("net.no.such".into(), "1".into())], ..Default::default() };
        assert!(create_pod_namespaces(&spec).unwrap_err().to_string().contains("net.no.such=1"));
    }

    #[test]
    fn a_netlink_socket_opens_here_and_there() {
        const ROUTE: u32 = 0;
        netlink_socket(ROUTE, None).unwrap();
        let spec = PodNamespacesSpec { net: true, ..Default::default() };
        let netns = create_pod_namespaces(&spec).unwrap().net.unwrap();
        netlink_socket(ROUTE, Some(netns.as_fd())).unwrap();
    }
}
