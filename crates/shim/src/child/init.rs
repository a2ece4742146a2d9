//! PID 1 of a shared PID namespace: it reaps orphans and does nothing else.
//!
//! It holds nothing that a container could want: an empty root file system of its own (`/proc/1/root` leads there), no
//! descriptors, no capabilities. It ends with the shim.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use podd_shim::wire::ResolvedUser;
use podd_sys::mount::{MountAttr, attach, filesystem, make_all_private, pivot_into_working_directory};
use podd_sys::{capability, exec, signal};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};

use super::container::join_cgroups;
use super::{Channel, Report};
use crate::fault::{Outcome, Stage};

/// The child's life, born in new PID and mount namespaces. It reports once it is ready or has failed.
pub(crate) fn run(cgroup_join: &[PathBuf], channel: Channel) -> ! {
    let outcome = join_cgroups(cgroup_join);
    let channel = keep_only(channel).unwrap_or_else(|_| podd_sys::fork::exit_now(1));
    match outcome.and_then(|()| set_up()) {
        Ok(children) => {
            // A shim that ended before the death signal was set is noticed here.
            let ready = Report::Ready { user: ResolvedUser::default(), warnings: Vec::new() };
            if channel.report(&ready, None).is_ok() {
                drop(channel);
                let Err(_) = reap(&children);
            }
            podd_sys::fork::exit_now(1)
        }
        Err(error) => channel.finish(Err(error)),
    }
}

/// Closes every other descriptor.
pub(crate) fn keep_only(channel: Channel) -> Outcome<Channel> {
    const CHANNEL: i32 = 0;
    exec::place(&channel.0, CHANNEL).stage("place channel")?;
    // Not dropped: its number is about to be closed with all others.
    std::mem::forget(channel);
    exec::close_from(CHANNEL + 1).stage("close descriptors")?;
    Ok(Channel::new(exec::adopt(CHANNEL).stage("adopt channel")?))
}

fn set_up() -> Outcome<OwnedFd> {
    rustix::process::setsid().stage("start session")?;
    rustix::thread::set_name(c"podd-init").stage("set name")?;
    enter_empty_root()?;
    // Before the set is empty nothing else may change: the kernel forgets the death signal when credentials do.
    capability::limit_bounding(0).stage("drop capabilities")?;
    capability::set(0, 0, 0).stage("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).stage("set no_new_privs")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).stage("end with the shim")?;
    signal::reset().stage("reset signals")?;
    signal::descriptor(&[Signal::CHILD.as_raw()]).stage("wait for signals")
}

fn reap(children: &OwnedFd) -> Outcome<Infallible> {
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let mut poll = [rustix::event::PollFd::new(children, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).stage("wait for children"),
        }
        let _drained = rustix::io::read(children, &mut [0u8; 128]);
    }
}

fn enter_empty_root() -> Outcome<()> {
    make_all_private().stage("make mounts private")?;
    let root = filesystem("tmpfs", &[("mode", Some("555")), ("nr_inodes", Some("2"))], MountAttr::RDONLY)
        .stage("mount empty root")?;
    let path = Path::new("/proc");
    let target = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).on("open", path)?;
    attach(root.as_fd(), target.as_fd()).on("attach empty root", path)?;
    rustix::process::fchdir(&root).stage("enter empty root")?;
    pivot_into_working_directory().stage("pivot root")
}
