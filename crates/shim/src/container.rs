//! One container: its child until it execs, its output, its end.
//!
//! ```text
//!  create ──► Creating ──Ready──► Created ──start──► (going) ──channel closes──► Running ──reaped──► Exited
//!                 │  └ Paused ─proceed─► (the same way)
//!                 └─Failed, late──► gone     └─dies──────┴──Failed, late───────────────────────────────▲
//! ```
//!
//! One that another OCI runtime makes goes the same way, by runs of its program: from Creating through Mounted to Created
//! when the first has ended, to Running when the second has.

mod external;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use podd_shim::wire::{
    CgroupSpec, ContainerSpec, ContainerState, Created, Event, Exit, LogLimits, NamespaceKind, Phase, PidNamespace,
    ResolvedUser, Response, Scope, ShimError, ShimErrorKind, Stdio as Standard, WindowSize,
};
use rustix::process::{Signal, WaitStatus};
use rustix::thread::UnshareFlags;

use crate::child::{self, Heard, Inside, Report, Stdio};
use crate::clock;
use crate::fault::{Outcome, Stage, refuse};
use crate::group;
use crate::log::{Channel, Scratch};
use crate::oom;
use crate::outbox::{Caller, Outbox};
use crate::output::{Ends, Output, pipes};
use crate::poller::{Poller, Serial, Token};
use crate::process::{self, Cradle, Process};
use crate::sandbox::Namespaces;
use crate::users::Needed;

/// A container that has not been forgotten.
pub(crate) struct Container {
    pub(crate) id: String,
    serial: Serial,
    cgroup: CgroupSpec,
    deadline_ms: u64,
    own_pid_namespace: bool,
    phase: Phase,
    /// Until it is reaped.
    process: Option<Process>,
    /// Until it has exec'd or failed.
    channel: Option<OwnedFd>,
    /// It waits in its creation for the runtime's hooks.
    paused: bool,
    /// It was told to exec.
    going: bool,
    /// Who waits for the end of the present step.
    caller: Option<Caller>,
    deadline: Option<i64>,
    user: ResolvedUser,
    started_at: i64,
    exit: Option<Exit>,
    start_error: Option<ShimError>,
    output: Output,
    stdin: Option<Stdin>,
    tty: bool,
    window: Option<WindowSize>,
    /// Another runtime makes it.
    external: Option<external::External>,
    /// Of its group, before it had a process and since.
    oom_kills_before: u64,
    oom_kills: u64,
}

/// The end of a container's stdin that is written to.
struct Stdin {
    pipe: OwnedFd,
    /// It closes when the first client leaves that wrote to it.
    once: bool,
    /// That client.
    first: Option<Serial>,
}

/// What becomes of a container after something has happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays.
    Kept,
    /// It never came to be: whoever waited has been told, and it is dropped.
    Dropped,
}

impl Container {
    /// Forks the child and goes on; the child's report tells how it went.
    pub(crate) fn create(
        spec: &ContainerSpec,
        serial: Serial,
        namespaces: &Namespaces,
        pid_namespace: Option<BorrowedFd<'_>>,
        caller: Caller,
        poller: &Poller,
    ) -> Outcome<Self> {
        let output = Output::open(serial, spec.log.as_ref())?;
        let inside = inside(spec, namespaces);
        let (files, mut ends) = if spec.tty { Default::default() } else { pipes(spec.stdin)? };
        let (stdio, external) = match &spec.external {
            Some(other) => {
                let (files, external) = external::prepare(other, files, &mut ends.stderr, &inside, pid_namespace)?;
                (Stdio::Files(files), Some(external))
            }
            None if spec.tty => (Stdio::Terminal, None),
            None => (Stdio::Files(files), None),
        };
        let (ours, theirs) = process::channel().stage("make channel")?;
        let own_pid_namespace = spec.namespaces.pid == PidNamespace::Private;
        let mut birth = UnshareFlags::NEWNS;
        if own_pid_namespace && external.is_none() {
            birth |= UnshareFlags::NEWPID;
        }
        let cradle = match external {
            // The rest is the program's to make and to join.
            Some(_) => Cradle { namespaces: birth.bits(), ..Cradle::default() },
            None => Cradle { namespaces: birth.bits(), pid_namespace, cgroup: spec.cgroup.v2_dir.as_deref() },
        };
        let users = Needed::of_container(spec, namespaces.users()?)?;
        let oom_kills_before = oom::kills(spec.cgroup.oom_counter.as_deref()).unwrap_or(0);
        let life = || match &spec.external {
            Some(external) => child::run_runtime(spec, external, users, stdio, theirs),
            None => child::run_container(spec, &inside, users, stdio, theirs),
        };
        let process = Process::fork(&cradle, life).stage("fork")?;
        let Ends { stdin, stdout, stderr } = ends;
        let mut container = Self {
            id: spec.id.clone(),
            serial,
            cgroup: spec.cgroup.clone(),
            deadline_ms: spec.deadline_ms,
            own_pid_namespace,
            phase: Phase::Creating,
            process: Some(process),
            channel: None,
            paused: false,
            going: false,
            caller: Some(caller),
            deadline: Some(process::deadline(spec.deadline_ms)),
            user: ResolvedUser::default(),
            started_at: 0,
            exit: None,
            start_error: None,
            output,
            stdin: stdin.map(|pipe| Stdin { pipe, once: spec.stdin_once, first: None }),
            tty: spec.tty,
            window: spec.window,
            external,
            oom_kills_before,
            oom_kills: 0,
        };
        let watched = container.watch(ours, stdout, stderr, poller);
        if let Err(error) = watched.stage("watch child") {
            container.abandon(poller);
            return Err(error);
        }
        Ok(container)
    }

    fn watch(
        &mut self,
        channel: OwnedFd,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        poller: &Poller,
    ) -> io::Result<()> {
        poller.add(&channel, Token::Container(self.serial))?;
        self.channel = Some(channel);
        for (fd, which) in [(stdout, Channel::Stdout), (stderr, Channel::Stderr)] {
            if let Some(fd) = fd {
                self.output.follow(fd, which, poller)?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_exited(&self) -> bool {
        self.phase == Phase::Exited
    }

    pub(crate) fn is_process(&self, pid: u32) -> bool {
        self.process.as_ref().is_some_and(|process| process.pid == pid)
    }

    /// When the present step has to be over, on the monotonic clock.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.deadline
    }

    /// Its first process while it runs, and its cgroup.
    pub(crate) fn running(&self) -> Option<(&Process, &CgroupSpec)> {
        (self.phase == Phase::Running).then_some(()).and(self.process.as_ref()).map(|process| (process, &self.cgroup))
    }

    /// Takes the child's reports.
    pub(crate) fn on_report(&mut self, poller: &Poller, outbox: &mut Outbox) -> Fate {
        while let Some(channel) = &self.channel {
            match child::hear(channel.as_fd()) {
                Heard::Nothing => break,
                Heard::Report(Report::Ready { user, warnings }, master) => {
                    if let Some(error) = self.on_ready(user, warnings, master, poller, outbox) {
                        return self.on_failure(error, poller, outbox);
                    }
                }
                Heard::Report(Report::Paused, _) => {
                    self.paused = true;
                    // How long hooks may take is the runtime's to say.
                    self.deadline = None;
                    let pid = self.process.as_ref().map_or(0, |process| process.pid);
                    outbox.answer(&mut self.caller, Ok(Response::Paused { pid }));
                }
                Heard::Report(Report::Mounted { user, home, warnings }, _) => {
                    self.on_mounted(user, home, warnings, outbox);
                }
                Heard::Report(Report::Failed(error), _) => return self.on_failure(error, poller, outbox),
                Heard::Closed => {
                    self.close_channel(poller);
                    if self.going && self.phase == Phase::Created {
                        self.phase = Phase::Running;
                        self.started_at = clock::now();
                        self.deadline = None;
                        outbox.answer(&mut self.caller, Ok(Response::Started { started_at: self.started_at }));
                    }
                }
            }
        }
        Fate::Kept
    }

    fn on_ready(
        &mut self,
        user: ResolvedUser,
        warnings: Vec<String>,
        master: Option<OwnedFd>,
        poller: &Poller,
        outbox: &mut Outbox,
    ) -> Option<ShimError> {
        if let Some(master) = master
            && let Err(error) = self.output.follow(master, Channel::Stdout, poller).stage("watch terminal")
        {
            return Some(error);
        }
        self.phase = Phase::Created;
        self.deadline = None;
        self.user = user.clone();
        let pid = self.process.as_ref().map_or(0, |process| process.pid);
        outbox.answer(&mut self.caller, Ok(Response::Created(Created { pid, user, warnings })));
        None
    }

    /// The child has failed, or is given up.
    fn on_failure(&mut self, error: ShimError, poller: &Poller, outbox: &mut Outbox) -> Fate {
        let fate = if self.phase == Phase::Creating { Fate::Dropped } else { Fate::Kept };
        if let Some(process) = &self.process {
            process.kill();
        }
        if fate == Fate::Kept {
            let exit = Exit { code: child::exit_code(&error), finished_at: clock::now(), ..Exit::default() };
            self.start_error = Some(error.clone());
            self.finish(exit, outbox);
        }
        outbox.answer(&mut self.caller, Err(error));
        self.abandon(poller);
        fate
    }

    /// A step took too long.
    pub(crate) fn on_deadline(&mut self, poller: &Poller, outbox: &mut Outbox) -> Fate {
        let stage = if self.going { "start container" } else { "set up container" };
        let error = refuse(ShimErrorKind::Timeout, stage, "the child missed its deadline and was killed");
        self.on_failure(error, poller, outbox)
    }

    /// Lets it go on with its creation; the answer is that of the creation.
    pub(crate) fn proceed(&mut self, caller: Caller) -> Outcome<()> {
        let channel = match &self.channel {
            Some(channel) if self.paused => channel,
            _ => return Err(refuse(ShimErrorKind::WrongState, "go on with creation", "it has not paused")),
        };
        child::let_go(channel.as_fd()).stage("go on with creation")?;
        self.paused = false;
        self.caller = Some(caller);
        self.deadline = Some(process::deadline(self.deadline_ms));
        Ok(())
    }

    /// Lets it exec; the answer comes when the channel closes.
    pub(crate) fn start(&mut self, caller: Caller) -> Outcome<()> {
        if self.external.is_some() {
            return self.start_elsewhere(caller);
        }
        let channel = match (self.phase, &self.channel) {
            (Phase::Created, Some(channel)) if !self.going => channel,
            _ => return Err(refuse(ShimErrorKind::WrongState, "start container", "it does not wait for its start")),
        };
        child::let_go(channel.as_fd()).stage("start container")?;
        self.going = true;
        self.caller = Some(caller);
        self.deadline = Some(process::deadline(self.deadline_ms));
        Ok(())
    }

    /// How often the kernel has killed in its group for want of memory; none when the group is gone, and it is not known.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        match self.phase {
            Phase::Exited => Some(self.oom_kills),
            _ => oom::kills(self.oom_counter()).map(|now| now.saturating_sub(self.oom_kills_before)),
        }
    }

    pub(crate) fn oom_counter(&self) -> Option<&Path> {
        self.cgroup.oom_counter.as_deref()
    }

    /// Its first process has been reaped, after so many kills for want of memory.
    pub(crate) fn on_end(
        &mut self,
        status: WaitStatus,
        oom_kills: u64,
        poller: &Poller,
        scratch: &mut Scratch,
        outbox: &mut Outbox,
    ) -> Fate {
        // What it said before its end comes first.
        if self.on_report(poller, outbox) == Fate::Dropped {
            return Fate::Dropped;
        }
        if self.is_made_elsewhere() {
            return self.on_made(status, poller, outbox);
        }
        self.process = None;
        match self.phase {
            Phase::Exited => {}
            Phase::Creating => {
                let error = refuse(
                    ShimErrorKind::System,
                    "set up container",
                    format!("the child ended: {}", process::words(status)),
                );
                return self.on_failure(error, poller, outbox);
            }
            Phase::Created => {
                if !self.holds_end(status, oom_kills) {
                    self.finish(process::exit_of(status, 0), outbox);
                }
            }
            Phase::Running => {
                let exit = process::exit_of(status, self.started_at);
                self.end_run(exit, oom_kills, poller, scratch, outbox);
            }
        }
        Fate::Kept
    }

    /// It ran, and is over.
    fn end_run(&mut self, exit: Exit, oom_kills: u64, poller: &Poller, scratch: &mut Scratch, outbox: &mut Outbox) {
        if !self.own_pid_namespace {
            // With its own, the kernel has ended everybody in it. Who is left is the runtime's to find.
            let _best_effort = group::signal_all(&self.cgroup, Signal::KILL.as_raw());
        }
        self.output.drain(self.own_pid_namespace, poller, scratch);
        self.oom_kills = oom_kills;
        let oom_killed = oom::is_kill(oom_kills, exit.code);
        self.finish(Exit { oom_killed, ..exit }, outbox);
    }

    fn finish(&mut self, exit: Exit, outbox: &mut Outbox) {
        self.phase = Phase::Exited;
        self.exit = Some(exit);
        self.deadline = None;
        self.stdin = None;
        outbox.events.push(Event::Exited { id: self.id.clone(), exit });
    }

    /// There is output, or its end.
    pub(crate) fn on_output(&mut self, which: Channel, poller: &Poller, scratch: &mut Scratch) {
        self.output.pump(which, poller, scratch);
    }

    fn close_channel(&mut self, poller: &Poller) {
        if let Some(channel) = self.channel.take() {
            poller.remove(&channel);
        }
    }

    /// Nobody wants it any more, whoever still waits for it included.
    pub(crate) fn forget(&mut self, poller: &Poller, outbox: &mut Outbox) {
        outbox.answer(&mut self.caller, Err(refuse(ShimErrorKind::NotFound, "create container", "it was forgotten")));
        self.abandon(poller);
    }

    /// Lets go of everything: before it is dropped, or when it could not start.
    pub(crate) fn abandon(&mut self, poller: &Poller) {
        self.close_channel(poller);
        self.output.close(poller);
        self.stdin = None;
        if let Some(external) = &mut self.external {
            external.abandon();
        }
        if let Some(process) = self.process.take() {
            // Reaped as a child that nobody knows.
            process.kill();
        }
    }

    /// Signals the first process, or every process of the cgroup.
    pub(crate) fn signal(&self, signal: i32, all: bool) -> Outcome<()> {
        if all && group::signal_all(&self.cgroup, signal).stage("signal the container's processes")? {
            return Ok(());
        }
        match &self.process {
            Some(process) => process.signal(signal).stage("signal container"),
            None => Ok(()),
        }
    }

    /// Changes the terminal's size.
    pub(crate) fn resize(&self, window: WindowSize) -> Outcome<()> {
        self.output.resize(window)
    }

    /// Joins its streams; the descriptor is its stdin's, if it has one and that is wanted.
    pub(crate) fn attach(
        &mut self,
        outputs: &[Standard],
        fds: Vec<OwnedFd>,
        stdin: bool,
        client: Serial,
    ) -> Outcome<Option<OwnedFd>> {
        if !matches!(self.phase, Phase::Created | Phase::Running) {
            return Err(refuse(ShimErrorKind::WrongState, "attach", "the container does not run"));
        }
        let channel = |output: &Standard| match output {
            Standard::Stdout => Some(Channel::Stdout),
            Standard::Stderr => Some(Channel::Stderr),
            Standard::Stdin => None,
        };
        let channels: Option<Vec<Channel>> = outputs.iter().map(channel).collect();
        match channels {
            Some(channels) if channels.len() == fds.len() => {
                self.output.attach(channels.into_iter().zip(fds).collect())?;
            }
            _ => return Err(refuse(ShimErrorKind::Invalid, "attach", "outputs and descriptors do not fit")),
        }
        match &mut self.stdin {
            _ if !stdin => Ok(None),
            _ if self.tty => self.output.keyboard(),
            Some(Stdin { pipe, first, .. }) => {
                first.get_or_insert(client);
                pipe.try_clone().map(Some).stage("share stdin")
            }
            None => Ok(None),
        }
    }

    /// A client has left, and nobody will write to a stdin that was for its first client alone.
    pub(crate) fn on_client_gone(&mut self, client: Serial) {
        self.stdin.take_if(|stdin| stdin.once && stdin.first == Some(client));
    }

    /// Closes its stdin.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Opens the log anew.
    pub(crate) fn reopen_log(&mut self) -> Outcome<()> {
        self.output.reopen()
    }

    /// Changes when the log rotates.
    pub(crate) fn set_log_limits(&mut self, limits: LogLimits) {
        self.output.set_limits(limits);
    }

    /// What it is, for a runtime that was away; without its execs.
    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            id: self.id.clone(),
            phase: self.phase,
            pid: self.process.as_ref().map(|process| process.pid),
            user: self.user.clone(),
            started_at: self.started_at,
            exit: self.exit,
            start_error: self.start_error.clone(),
            log_bytes_dropped: self.output.dropped(),
            execs: Vec::new(),
        }
    }
}

fn inside<'a>(spec: &ContainerSpec, namespaces: &'a Namespaces) -> Inside<'a> {
    let of = |scope: Scope, kind| match scope {
        Scope::Pod => namespaces.get(kind),
        Scope::Host => None,
    };
    let wanted = &spec.namespaces;
    Inside {
        net: of(wanted.net, NamespaceKind::Net),
        ipc: of(wanted.ipc, NamespaceKind::Ipc),
        uts: of(wanted.uts, NamespaceKind::Uts),
    }
}
