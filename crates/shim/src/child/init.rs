//! PID 1 of a shared PID namespace: it reaps orphans and does nothing else.
//!
//! It holds nothing that a container could want: an empty root file system of its own (`/proc/1/root` leads there), no
//! descriptors, no capabilities. It ends with the shim.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use podd_sys::mount::{MountAttr, attach, filesystem, make_all_private, pivot_into_working_directory};
use podd_sys::{capability, exec, signal};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};

use super::container::join_cgroups;
use crate::fault::{Outcome, Stage};

/// The child's life, born in new PID and mount namespaces.
pub(crate) fn run(cgroup_join: &[PathBuf]) -> ! {
    let Err(_) = live(cgroup_join);
    podd_sys::fork::exit_now(1)
}

fn live(cgroup_join: &[PathBuf]) -> Outcome<Infallible> {
    join_cgroups(cgroup_join)?;
    exec::close_from(0).stage("close descriptors")?;
    rustix::process::setsid().stage("start session")?;
    rustix::thread::set_name(c"podd-init").stage("set name")?;
    enter_empty_root()?;
    // Before the set is empty nothing else may change: the kernel forgets the death signal when credentials do.
    capability::limit_bounding(0).stage("drop capabilities")?;
    capability::set(0, 0, 0).stage("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).stage("set no_new_privs")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).stage("end with the shim")?;
    signal::reset().stage("reset signals")?;
    let children = signal::descriptor(&[libc_sigchld()]).stage("wait for signals")?;
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let mut poll = [rustix::event::PollFd::new(&children, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).stage("wait for children"),
        }
        let _drained = rustix::io::read(&children, &mut [0u8; 128]);
    }
}

fn libc_sigchld() -> i32 {
    Signal::CHILD.as_raw()
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
