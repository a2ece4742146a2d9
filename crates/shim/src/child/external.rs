//! Children that become the program of another OCI runtime.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use podd_shim::wire::{Command, ContainerSpec, External, ShimError};
use podd_sys::exec;
use rustix::fs::{Mode, OFlags};

use super::container::settle;
use super::{Channel, Report, Stdio, mounts, privileges, user};
use crate::fault::{Outcome, Stage};
use crate::users::Needed;

/// The mode of what programs make, unless they say otherwise.
const UMASK: u32 = 0o022;

/// The life of the program that makes a container, born in a mount namespace of its own: what it mounts goes with it, and
/// with the container.
pub(crate) fn run(spec: &ContainerSpec, external: &External, users: Needed, stdio: Stdio, channel: Channel) -> ! {
    let settled = settle(stdio, channel, users);
    let (channel, users) = settled.unwrap_or_else(|_| podd_sys::fork::exit_now(1));
    let outcome = set_up(spec, external, &users, &channel).and_then(|()| become_program(&external.create.command));
    channel.finish(outcome)
}

fn set_up(spec: &ContainerSpec, external: &External, users: &Needed, channel: &Channel) -> Outcome<()> {
    let mut warnings = Vec::new();
    if let Some(value) = spec.process.oom_score_adj {
        privileges::adjust_oom_score(value, &mut warnings)?;
    }
    rustix::process::umask(Mode::empty());
    let root = mounts::stage(spec, users, &external.mounts)?;
    let user = user::resolve(root.as_fd(), &spec.process.user)?;
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    channel.report_and_wait(&Report::Mounted { user: user.ids, home: user.home, warnings }, None)
}

/// The life of a program that needs nothing of its own. Why it could not be run goes where it would have said so itself.
pub(crate) fn run_program(command: &Command, oom_score_adj: Option<i32>, files: &[Option<OwnedFd>; 3]) -> ! {
    let outcome = leave_shim(files).and_then(|()| {
        if let Some(value) = oom_score_adj {
            // What the machine does not allow was told when the container was made.
            privileges::adjust_oom_score(value, &mut Vec::new())?;
        }
        become_program(command)
    });
    let Err(error) = outcome;
    let _unheard = complain(&command.log, &error);
    podd_sys::fork::exit_now(super::exit_code(&error))
}

/// Leaves everything of the shim behind, as the first process of a container does.
fn leave_shim(files: &[Option<OwnedFd>; 3]) -> Outcome<()> {
    for (number, file) in (0..).zip(files) {
        if let Some(file) = file {
            exec::place(file, number).stage("place standard descriptors")?;
        }
    }
    exec::close_from(3).stage("close descriptors")?;
    rustix::process::setsid().stage("start session")?;
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    podd_sys::signal::reset().stage("reset signals")
}

fn become_program(command: &Command) -> Outcome<Infallible> {
    const STAGE: &str = "run";
    let strings = |values: &[String]| -> io::Result<Vec<CString>> {
        values.iter().map(|value| CString::new(value.as_str()).map_err(io::Error::from)).collect()
    };
    let (args, env) = (strings(&command.args).stage(STAGE)?, strings(&command.env).stage(STAGE)?);
    let program = args.first().ok_or(io::ErrorKind::InvalidInput).stage(STAGE)?;
    exec::execve(program, &args, &env).on(STAGE, Path::new(&command.args[0]))
}

/// In the form of the programs' own logs.
fn complain(log: &Path, error: &ShimError) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::open(log, flags, Mode::from_raw_mode(0o600))?;
    let line = serde_json::json!({ "level": "error", "msg": error.to_string() });
    writeln!(std::fs::File::from(file), "{line}")
}
