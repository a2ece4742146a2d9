//! A further process in a running container.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use podd_shim::wire::ExecSpec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::container::{Home, Prepared, join_cgroups, prepare, settle, wait_and_exec};
use super::{Channel, Stdio, privileges, terminal};
use crate::fault::{Outcome, Stage};
use crate::users::{Needed, Users};

/// The container to enter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Its first process.
    pub(crate) pidfd: BorrowedFd<'a>,
    /// Its cgroups.
    pub(crate) join: &'a [PathBuf],
}

/// The child's life. Its PID namespace is the container's by birth.
pub(crate) fn run(spec: &ExecSpec, target: &Target<'_>, users: Needed, stdio: Stdio, channel: Channel) -> ! {
    let mut warnings = Vec::new();
    // What needs the host's file system, or the shim's descriptors, comes before the container can look at this process
    // with anything of the shim still open.
    let outside = enter(spec, target, &mut warnings);
    let settled = settle(stdio, channel, users);
    let (channel, users) = settled.unwrap_or_else(|_| podd_sys::fork::exit_now(1));
    let outcome = outside
        .and_then(|()| set_up(spec, users.own(), warnings))
        .and_then(|prepared| wait_and_exec(prepared, &channel));
    channel.finish(outcome)
}

fn enter(spec: &ExecSpec, target: &Target<'_>, warnings: &mut Vec<String>) -> Outcome<()> {
    if let Some(value) = spec.process.oom_score_adj {
        privileges::adjust_oom_score(value, warnings)?;
    }
    join_cgroups(target.join)?;
    let kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(target.pidfd, kinds).stage("enter container")
}

fn set_up(spec: &ExecSpec, users: Option<&Users>, warnings: Vec<String>) -> Outcome<Prepared> {
    if let Some(users) = users {
        users.own_files()?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, "/", flags, Mode::empty()).stage("open root")?;
    let terminal = spec.tty.then(|| terminal::open(std::os::fd::AsFd::as_fd(&root), spec.window)).transpose()?;
    let home = Home { users, own_mounts: false };
    prepare(&spec.process, &root, &home, terminal, warnings)
}
