//! A container that another OCI runtime makes and starts: its program is run for either, and what that leaves behind is the
//! container's first process. From then on it is a container like any other.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use podd_shim::wire::{Created, Exit, External as Spec, Mounted, NamespaceKind, ResolvedUser, Response, ShimErrorKind};
use rustix::process::WaitStatus;

use super::{Container, Fate};
use crate::child::Inside;
use crate::clock;
use crate::fault::{Outcome, Stage, refuse};
use crate::launch::{self, Console};
use crate::log::{Channel, Scratch};
use crate::outbox::{Caller, Outbox};
use crate::poller::Poller;
use crate::process::{self, Process};

/// What such a container has beside the others.
pub(super) struct External {
    spec: Spec,
    console: Option<Console>,
    /// What the program writes to its standard error: with a terminal, to a pipe of its own, otherwise to the container's.
    /// That is not read before the program has ended, and belongs in the log only if it ended well.
    errors: Option<OwnedFd>,
    /// Those that it joins, until it has.
    namespaces: Vec<(NamespaceKind, PathBuf)>,
    /// Keeps the process namespace of another container.
    _pid_namespace: Option<OwnedFd>,
    warnings: Vec<String>,
    starting: Option<Starting>,
    /// The first process has ended while the program that starts it runs; and kills for want of memory.
    ended: Option<(Exit, u64)>,
}

/// The program that starts the container.
struct Starting {
    process: Process,
    errors: OwnedFd,
    since: i64,
}

/// Gets ready for a program: its standard descriptors, and what it leaves behind. Takes the shim's end of the container's
/// standard error away.
pub(super) fn prepare(
    spec: &Spec,
    mut files: [Option<OwnedFd>; 3],
    stderr: &mut Option<OwnedFd>,
    inside: &Inside<'_>,
    pid_namespace: Option<BorrowedFd<'_>>,
) -> Outcome<([Option<OwnedFd>; 3], External)> {
    let console = spec.create.console.as_deref().map(Console::listen).transpose()?;
    let errors = match stderr.take() {
        Some(stderr) => stderr,
        None => {
            let (read, write) = launch::errors()?;
            files[2] = Some(write);
            read
        }
    };
    let pid_namespace = pid_namespace.map(|namespace| namespace.try_clone_to_owned()).transpose();
    let pid_namespace = pid_namespace.stage("hold pid namespace")?;
    let joined = [
        (NamespaceKind::Net, inside.net),
        (NamespaceKind::Ipc, inside.ipc),
        (NamespaceKind::Uts, inside.uts),
        (NamespaceKind::Pid, pid_namespace.as_ref().map(std::os::fd::AsFd::as_fd)),
    ];
    let namespaces = joined.into_iter().filter_map(|(kind, fd)| Some((kind, path_of(fd?)))).collect();
    let external = External {
        spec: spec.clone(),
        console,
        errors: Some(errors),
        namespaces,
        _pid_namespace: pid_namespace,
        warnings: Vec::new(),
        starting: None,
        ended: None,
    };
    Ok((files, external))
}

/// Where another process finds a descriptor of the shim.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

impl External {
    /// Nothing more is waited for.
    pub(super) fn abandon(&mut self) {
        (self.console, self.errors) = (None, None);
        if let Some(starting) = self.starting.take() {
            // Reaped as a child that nobody knows.
            starting.process.kill();
        }
    }

    /// The process and, where it has one, the terminal that the program has left behind.
    fn made(&mut self, status: WaitStatus) -> Outcome<(Process, Option<OwnedFd>)> {
        let create = &self.spec.create;
        if status.exit_status() != Some(0) {
            return Err(launch::failure("create container", &create.command, status, self.errors.as_ref()));
        }
        let process = launch::adopt(launch::read_pid(&create.pid_file)?)?;
        let terminal = self.console.take().map(|console| console.terminal()).transpose();
        let terminal = terminal.inspect_err(|_| process.kill())?;
        Ok((process, terminal))
    }
}

impl Container {
    /// All is mounted: the runtime writes the program's configuration next.
    pub(super) fn on_mounted(&mut self, user: ResolvedUser, home: String, warnings: Vec<String>, outbox: &mut Outbox) {
        let Some(external) = &mut self.external else { return };
        external.warnings = warnings;
        self.user = user.clone();
        self.paused = true;
        // How long the runtime takes is its own to say.
        self.deadline = None;
        let namespaces = std::mem::take(&mut external.namespaces);
        outbox.answer(&mut self.caller, Ok(Response::Mounted(Mounted { user, home, namespaces })));
    }

    /// Its process is still the program that makes it.
    pub(super) fn is_made_elsewhere(&self) -> bool {
        self.external.is_some() && self.phase == super::Phase::Creating
    }

    /// The program that makes it has ended.
    pub(super) fn on_made(&mut self, status: WaitStatus, poller: &Poller, outbox: &mut Outbox) -> Fate {
        self.process = None;
        let Some(external) = &mut self.external else { return Fate::Kept };
        let (process, terminal) = match external.made(status) {
            Ok(made) => made,
            Err(error) => return self.on_failure(error, poller, outbox),
        };
        let (pid, warnings) = (process.pid, std::mem::take(&mut external.warnings));
        let errors = external.errors.take();
        self.process = Some(process);
        let followed = match (terminal, errors) {
            (Some(master), _) => self.output.follow(master, Channel::Stdout, poller),
            (None, Some(stderr)) if !self.tty => self.output.follow(stderr, Channel::Stderr, poller),
            _ => Ok(()),
        };
        if let Err(error) = followed.stage("watch output") {
            return self.on_failure(error, poller, outbox);
        }
        if let (Some(window), true) = (self.window, self.tty)
            && let Err(error) = self.output.resize(window)
        {
            return self.on_failure(error, poller, outbox);
        }
        self.phase = super::Phase::Created;
        self.deadline = None;
        outbox.answer(&mut self.caller, Ok(Response::Created(Created { pid, user: self.user.clone(), warnings })));
        Fate::Kept
    }

    /// Runs the program that lets it exec; the answer comes when that has ended.
    pub(super) fn start_elsewhere(&mut self, caller: Caller) -> Outcome<()> {
        let ready = self.phase == super::Phase::Created && !self.going;
        let Some(external) = self.external.as_mut().filter(|_| ready) else {
            return Err(refuse(ShimErrorKind::WrongState, "start container", "it does not wait for its start"));
        };
        let (errors, theirs) = launch::errors()?;
        let since = clock::now();
        let process = launch::run(&external.spec.start, None, &[None, None, Some(theirs)])?;
        external.starting = Some(Starting { process, errors, since });
        self.going = true;
        self.caller = Some(caller);
        self.deadline = Some(process::deadline(self.deadline_ms));
        Ok(())
    }

    /// Whether this is the program that starts it.
    pub(crate) fn is_starter(&self, pid: u32) -> bool {
        let starting = self.external.as_ref().and_then(|external| external.starting.as_ref());
        starting.is_some_and(|starting| starting.process.pid == pid)
    }

    /// Its first process has ended; what that means is known when the program that starts it has, too. `true` if that is
    /// so.
    pub(super) fn holds_end(&mut self, status: WaitStatus, oom_kills: u64) -> bool {
        match &mut self.external {
            Some(External { starting: Some(starting), ended, .. }) => {
                *ended = Some((process::exit_of(status, starting.since), oom_kills));
                true
            }
            _ => false,
        }
    }

    /// The program that starts it has ended.
    pub(crate) fn on_started(
        &mut self,
        status: WaitStatus,
        poller: &Poller,
        scratch: &mut Scratch,
        outbox: &mut Outbox,
    ) -> Fate {
        let Some(external) = &mut self.external else { return Fate::Kept };
        let Some(starting) = external.starting.take() else { return Fate::Kept };
        if status.exit_status() != Some(0) {
            let error = launch::failure("start container", &external.spec.start, status, Some(&starting.errors));
            return self.on_failure(error, poller, outbox);
        }
        let ended = external.ended.take();
        self.phase = super::Phase::Running;
        self.started_at = starting.since;
        self.deadline = None;
        outbox.answer(&mut self.caller, Ok(Response::Started { started_at: self.started_at }));
        if let Some((exit, oom_kills)) = ended {
            self.end_run(exit, oom_kills, poller, scratch, outbox);
        }
        Fate::Kept
    }
}
