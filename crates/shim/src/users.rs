//! User namespaces: made by a child that is born in one, gets its ids from here and makes the rest inside, so that the
//! pod's other namespaces belong to it.
//!
//! ```text
//! shim: fork (new user namespace) ─► write ids ──go──►  child: become root, make the others, write sysctls
//!       hold the namespaces ◄────────Ready / Failed──────────┘
//!       close ─────────────────────────────────────►  ends
//! ```
//!
//! The shim waits for it: setting up a sandbox is the first thing it does, and nothing else can happen before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podd_shim::wire::{ContainerSpec, IdMaps, IdRange, NamespaceKind, ResolvedUser, ShimErrorKind, UserNamespace};
use podd_sys::namespace::{self, Kind, map_ids, open_of_process, own_files_as, unshare_own};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;

use crate::child::{self, Channel, Heard, Report};
use crate::fault::{Outcome, Stage, refuse};
use crate::process::{self, Cradle, Process};

/// How long the child may take, in seconds.
const PATIENCE: i64 = 20;

/// A user namespace and what its ids are outside.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) ids: IdMaps,
    pub(crate) namespace: OwnedFd,
}

impl Users {
    /// What a user and a group inside are outside.
    pub(crate) fn outside(&self, uid: u32, gid: u32) -> Outcome<(u32, u32)> {
        self.ids.outside(uid, gid).ok_or_else(|| {
            let message = format!("user {uid} and group {gid} are not both in the pod's user namespace");
            refuse(ShimErrorKind::Invalid, "find ids outside", message)
        })
    }

    /// From here on what this process makes belongs to the root inside.
    pub(crate) fn own_files(&self) -> Outcome<()> {
        let (uid, gid) = self.outside(0, 0)?;
        own_files_as(uid, gid).stage("make files as the container's root")
    }

    /// Goes in, for good.
    pub(crate) fn enter(&self) -> Outcome<()> {
        namespace::enter(self.namespace.as_fd(), Kind::User).stage("enter user namespace")
    }
}

/// What a container's child needs of them: the pod's, and others whose ids mounts are shown by.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// The pod's comes first, if it has one.
    pub(crate) list: Vec<Users>,
    has_own: bool,
}

impl Needed {
    /// The pod's.
    pub(crate) fn pod(pod: Option<Users>) -> Self {
        Self { has_own: pod.is_some(), list: pod.into_iter().collect() }
    }

    /// The pod's, and those of a container's mounts.
    pub(crate) fn of_container(spec: &ContainerSpec, pod: Option<Users>) -> Outcome<Self> {
        let mut needed = Self::pod(pod);
        for ids in spec.mounts.iter().filter_map(|mount| mount.ids.as_ref()) {
            if needed.with_ids(ids).is_none() {
                let namespace = make(&UserNamespace { ids: ids.clone(), ..UserNamespace::default() })?.pop();
                needed.list.extend(namespace.map(|(_, namespace)| Users { ids: ids.clone(), namespace }));
            }
        }
        Ok(needed)
    }

    /// The user namespace that the child will live in, if it is not the host's.
    pub(crate) fn own(&self) -> Option<&Users> {
        self.list.first().filter(|_| self.has_own)
    }

    pub(crate) fn with_ids(&self, ids: &IdMaps) -> Option<&Users> {
        self.list.iter().find(|users| users.ids == *ids)
    }
}

/// Makes a user namespace and what belongs to it; the user namespace comes first.
pub(crate) fn make(spec: &UserNamespace) -> Outcome<Vec<(NamespaceKind, OwnedFd)>> {
    let flags = spec.inside.iter().map(|kind| flag_of(*kind)).collect::<Outcome<Vec<_>>>()?;
    let flags = flags.into_iter().collect::<UnshareFlags>();
    let (ours, theirs) = process::channel().stage("make channel")?;
    let cradle = Cradle { namespaces: UnshareFlags::NEWUSER.bits(), ..Cradle::default() };
    let child = Process::fork(&cradle, || live(spec, flags, theirs)).stage("make user namespace")?;
    let made = finish(spec, &child, ours.as_fd());
    if made.is_err() {
        // Otherwise it ends when the channel closes. It is reaped as a child that nobody knows.
        child.kill();
    }
    made
}

fn flag_of(kind: NamespaceKind) -> Outcome<UnshareFlags> {
    match kind {
        NamespaceKind::Net => Ok(UnshareFlags::NEWNET),
        NamespaceKind::Ipc => Ok(UnshareFlags::NEWIPC),
        NamespaceKind::Uts => Ok(UnshareFlags::NEWUTS),
        NamespaceKind::Pid | NamespaceKind::User => {
            Err(refuse(ShimErrorKind::Invalid, "make user namespace", format!("{kind:?} is not made inside")))
        }
    }
}

fn finish(spec: &UserNamespace, child: &Process, channel: BorrowedFd<'_>) -> Outcome<Vec<(NamespaceKind, OwnedFd)>> {
    map_ids(child.pid, &ranges(&spec.ids.uids), &ranges(&spec.ids.gids)).stage("map ids of user namespace")?;
    child::let_go(channel).stage("make user namespace")?;
    wait_for_report(channel)?;
    let mut made = vec![(NamespaceKind::User, Kind::User)];
    for kind in &spec.inside {
        made.push((
            *kind,
            match kind {
                NamespaceKind::Net => Kind::Net,
                NamespaceKind::Ipc => Kind::Ipc,
                NamespaceKind::Uts => Kind::Uts,
                NamespaceKind::Pid => Kind::Pid,
                NamespaceKind::User => Kind::User,
            },
        ));
    }
    let open = |(name, kind)| Ok((name, open_of_process(child.pid, kind).stage("open namespace")?));
    made.into_iter().map(open).collect()
}

fn ranges(ids: &[IdRange]) -> Vec<namespace::IdRange> {
    let range = |range: &IdRange| {
        let IdRange { inside, outside, count } = *range;
        namespace::IdRange { inside, outside, count }
    };
    ids.iter().map(range).collect()
}

fn wait_for_report(channel: BorrowedFd<'_>) -> Outcome<()> {
    let end = crate::clock::monotonic().saturating_add(PATIENCE * 1_000_000_000);
    loop {
        match child::hear(channel) {
            Heard::Report(Report::Ready { .. }, _) => return Ok(()),
            Heard::Report(Report::Failed(error), _) => return Err(error),
            // It never pauses; a pause would be its end all the same.
            Heard::Report(Report::Paused | Report::Mounted { .. }, _) | Heard::Closed => {
                return Err(refuse(ShimErrorKind::System, "make user namespace", "the child ended"));
            }
            Heard::Nothing => {}
        }
        let left = end - crate::clock::monotonic();
        if left <= 0 {
            return Err(refuse(ShimErrorKind::Timeout, "make user namespace", "the child took too long"));
        }
        let timeout = Timespec { tv_sec: left / 1_000_000_000, tv_nsec: left % 1_000_000_000 };
        match poll(&mut [PollFd::new(&channel, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).stage("wait for user namespace"),
        }
    }
}

/// The child's life.
fn live(spec: &UserNamespace, flags: UnshareFlags, channel: Channel) {
    // Whatever else it holds would outlive the shim with it.
    let Ok(channel) = child::keep_only(channel) else { return };
    if channel.wait().is_err() {
        return;
    }
    let ready = Report::Ready { user: ResolvedUser::default(), warnings: Vec::new() };
    let told = match furnish(spec, flags) {
        Ok(()) => channel.report(&ready, None).and_then(|()| channel.wait()),
        Err(error) => channel.report(&Report::Failed(error), None),
    };
    // Whoever is not heard has nobody to tell it to.
    drop(told);
}

fn furnish(spec: &UserNamespace, flags: UnshareFlags) -> Outcome<()> {
    // As the namespace's root, or files of the new namespaces would belong to nobody in it.
    rustix::thread::set_thread_groups(&[]).stage("leave groups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).stage("become root of user namespace")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).stage("become root of user namespace")?;
    unshare_own(flags).stage("make namespaces")?;
    if let Some(hostname) = spec.hostname.as_ref().filter(|_| spec.inside.contains(&NamespaceKind::Uts)) {
        rustix::system::sethostname(hostname.as_bytes()).stage("set host name")?;
    }
    for (name, value) in &spec.sysctls {
        podd_sys::procfs::write_sysctl(name, value)
            .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))
            .stage("set sysctl")?;
    }
    Ok(())
}
