//! One exec: a further process in a running container, from its fork to its end. In a container of another OCI runtime, from
//! the start of its program, which leaves the process behind.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podd_shim::wire::{
    CgroupSpec, Event, ExecSpec, ExecState, Executing, Exit, Launch, Response, ShimError, ShimErrorKind,
    Stdio as Standard, WindowSize,
};
use rustix::process::WaitStatus;

use crate::child::{self, Heard, Report, Stdio, Target};
use crate::clock;
use crate::container::Fate;
use crate::fault::{Outcome, Stage, refuse};
use crate::launch::{self, Console, Strays};
use crate::outbox::{Caller, Outbox};
use crate::poller::{Poller, Serial, Token};
use crate::process::{self, Cradle, Process};
use crate::users::{Needed, Users};

/// An exec that has not been forgotten.
pub(crate) struct Session {
    pub(crate) id: String,
    /// Which container it is in.
    pub(crate) container: Serial,
    container_id: String,
    /// Whose it is: the terminal is hung up when that client leaves.
    client: Serial,
    process: Option<Process>,
    channel: Option<OwnedFd>,
    caller: Option<Caller>,
    deadline: Option<i64>,
    /// It was told to exec.
    going: bool,
    started_at: i64,
    exit: Option<Exit>,
    /// Another descriptor of the master that the runtime has, for its size.
    terminal: Option<OwnedFd>,
    window: Option<WindowSize>,
    /// The program of another runtime is still at it.
    launching: Option<Launching>,
    forgotten: bool,
}

/// A program that starts the process.
struct Launching {
    launch: Launch,
    console: Option<Console>,
    /// Its standard error, where that is not the process's own.
    errors: Option<OwnedFd>,
}

impl Launching {
    /// Runs the program.
    fn begin(spec: &ExecSpec, launch: &Launch, stdio: Stdio) -> Outcome<(Process, Self)> {
        let console = launch.console.as_deref().map(Console::listen).transpose()?;
        let (files, errors) = match stdio {
            Stdio::Files(files) => (files, None),
            Stdio::Terminal => {
                let (read, write) = launch::errors()?;
                ([None, None, Some(write)], Some(read))
            }
        };
        let process = launch::run(&launch.command, spec.process.oom_score_adj, &files)?;
        Ok((process, Self { launch: launch.clone(), console, errors }))
    }

    /// What the program has left behind, once it has ended: the process's id, and its terminal.
    fn result(self, status: WaitStatus) -> Outcome<(u32, Option<OwnedFd>)> {
        let Self { launch, console, errors } = self;
        if status.exit_status() != Some(0) {
            return Err(launch::failure("exec", &launch.command, status, errors.as_ref()));
        }
        let terminal = console.map(|console| console.terminal()).transpose()?;
        Ok((launch::read_pid(&launch.pid_file)?, terminal))
    }
}

/// The container to enter.
pub(crate) struct Place<'a> {
    pub(crate) container: Serial,
    pub(crate) process: &'a Process,
    pub(crate) cgroup: &'a CgroupSpec,
    pub(crate) pid_namespace: BorrowedFd<'a>,
    pub(crate) users: Option<Users>,
}

impl Session {
    /// Forks the child and goes on.
    pub(crate) fn begin(
        spec: &ExecSpec,
        serial: Serial,
        place: Place<'_>,
        fds: Vec<OwnedFd>,
        caller: Caller,
        poller: &Poller,
    ) -> Outcome<Self> {
        let stdio = standard(spec, fds)?;
        let session = Self {
            id: spec.id.clone(),
            container: place.container,
            container_id: spec.container.clone(),
            client: caller.client,
            process: None,
            channel: None,
            caller: Some(caller),
            deadline: Some(process::deadline(spec.deadline_ms)),
            going: false,
            started_at: 0,
            exit: None,
            terminal: None,
            window: spec.window,
            launching: None,
            forgotten: false,
        };
        if let Some(launch) = &spec.external {
            let (process, launching) = Launching::begin(spec, launch, stdio)?;
            return Ok(Self { process: Some(process), launching: Some(launching), ..session });
        }
        let (ours, theirs) = process::channel().stage("make channel")?;
        poller.add(&ours, Token::Exec(serial)).stage("watch child")?;
        let v2 = place.cgroup.v2_dir.as_deref();
        let cradle = Cradle { namespaces: 0, pid_namespace: Some(place.pid_namespace), cgroup: v2 };
        let target = Target { pidfd: place.process.pidfd.as_fd(), join: &place.cgroup.join };
        let users = Needed::pod(place.users);
        let forked = Process::fork(&cradle, || child::run_exec(spec, &target, users, stdio, theirs)).stage("fork");
        let process = forked.inspect_err(|_| poller.remove(&ours))?;
        Ok(Self { process: Some(process), channel: Some(ours), ..session })
    }

    /// A program runs that will leave its process behind.
    pub(crate) fn is_launching(&self) -> bool {
        self.launching.is_some()
    }

    /// The program that starts the process has ended; the process may have done so, too.
    fn on_launched(&mut self, status: WaitStatus, strays: &mut Strays, poller: &Poller, outbox: &mut Outbox) -> Fate {
        self.process = None;
        let Some(launching) = self.launching.take() else { return Fate::Kept };
        let launched = launching.result(status).and_then(|(pid, terminal)| {
            let ended = strays.take(pid);
            self.process = if ended.is_none() { Some(launch::adopt(pid)?) } else { None };
            if let (Some(terminal), Some(window)) = (&terminal, self.window) {
                child::resize(terminal.as_fd(), window).stage("set terminal size")?;
            }
            Ok((pid, terminal, ended))
        });
        let (pid, terminal, ended) = match launched {
            Ok(launched) => launched,
            Err(error) => return self.on_failure(error, poller, outbox),
        };
        self.terminal = terminal;
        if let Err(error) = self.answer_running(pid, outbox) {
            return self.on_failure(error, poller, outbox);
        }
        match ended {
            Some(status) => self.finish(status, outbox),
            None if self.forgotten => {
                self.terminal = None;
                Fate::Kept
            }
            None => Fate::Kept,
        }
    }

    pub(crate) fn is_process(&self, pid: u32) -> bool {
        self.process.as_ref().is_some_and(|process| process.pid == pid)
    }

    pub(crate) fn deadline(&self) -> Option<i64> {
        self.deadline
    }

    /// Takes the child's reports.
    pub(crate) fn on_report(&mut self, poller: &Poller, outbox: &mut Outbox) -> Fate {
        while let Some(channel) = &self.channel {
            match child::hear(channel.as_fd()) {
                // Only containers pause.
                Heard::Nothing | Heard::Report(Report::Paused | Report::Mounted { .. }, _) => break,
                Heard::Report(Report::Ready { .. }, master) => {
                    self.terminal = master;
                    if let Err(error) = child::let_go(channel.as_fd()).stage("start exec") {
                        return self.on_failure(error, poller, outbox);
                    }
                    self.going = true;
                }
                Heard::Report(Report::Failed(error), _) => return self.on_failure(error, poller, outbox),
                // It ended before it was ready; its end tells the rest.
                Heard::Closed if !self.going => self.close_channel(poller),
                Heard::Closed => {
                    self.close_channel(poller);
                    let pid = self.process.as_ref().map_or(0, |process| process.pid);
                    if let Err(error) = self.answer_running(pid, outbox) {
                        return self.on_failure(error, poller, outbox);
                    }
                }
            }
        }
        Fate::Kept
    }

    fn answer_running(&mut self, pid: u32, outbox: &mut Outbox) -> Outcome<()> {
        self.deadline = None;
        self.started_at = clock::now();
        let master = self.terminal.as_ref().map(OwnedFd::try_clone).transpose().stage("share terminal")?;
        let response = Response::Executing(Executing { pid, started_at: self.started_at });
        outbox.answer_with(&mut self.caller, Ok(response), master.into_iter().collect());
        Ok(())
    }

    fn on_failure(&mut self, error: ShimError, poller: &Poller, outbox: &mut Outbox) -> Fate {
        outbox.answer(&mut self.caller, Err(error));
        self.abandon(poller);
        Fate::Dropped
    }

    /// Its set-up took too long.
    pub(crate) fn on_deadline(&mut self, poller: &Poller, outbox: &mut Outbox) -> Fate {
        let error = refuse(ShimErrorKind::Timeout, "set up exec", "the child missed its deadline and was killed");
        self.on_failure(error, poller, outbox)
    }

    /// Its process has been reaped, or the program that starts it.
    pub(crate) fn on_end(
        &mut self,
        status: WaitStatus,
        strays: &mut Strays,
        poller: &Poller,
        outbox: &mut Outbox,
    ) -> Fate {
        if self.is_launching() {
            return self.on_launched(status, strays, poller, outbox);
        }
        if self.on_report(poller, outbox) == Fate::Dropped {
            return Fate::Dropped;
        }
        self.process = None;
        if self.caller.is_some() {
            let message = format!("the child ended: {}", process::words(status));
            return self.on_failure(refuse(ShimErrorKind::System, "set up exec", message), poller, outbox);
        }
        self.finish(status, outbox)
    }

    fn finish(&mut self, status: WaitStatus, outbox: &mut Outbox) -> Fate {
        self.terminal = None;
        if self.forgotten {
            return Fate::Dropped;
        }
        let exit = process::exit_of(status, self.started_at);
        self.exit = Some(exit);
        outbox.events.push(Event::ExecExited { id: self.container_id.clone(), exec: self.id.clone(), exit });
        Fate::Kept
    }

    /// A client has left: nobody holds the other end of its terminals any more.
    pub(crate) fn on_client_gone(&mut self, client: Serial) {
        if self.client == client {
            self.terminal = None;
        }
    }

    /// Nobody wants to know of it any more. One that runs is let go of: a terminal is hung up, pipes are the runtime's.
    pub(crate) fn forget(&mut self) -> Fate {
        self.forgotten = true;
        self.terminal = None;
        if self.process.is_some() { Fate::Kept } else { Fate::Dropped }
    }

    /// Ends it, with its container.
    pub(crate) fn end(&mut self, poller: &Poller, outbox: &mut Outbox) {
        outbox.answer(&mut self.caller, Err(refuse(ShimErrorKind::NotFound, "exec", "the container was forgotten")));
        self.abandon(poller);
    }

    fn abandon(&mut self, poller: &Poller) {
        self.close_channel(poller);
        (self.terminal, self.launching) = (None, None);
        if let Some(process) = self.process.take() {
            // Reaped as a child that nobody knows.
            process.kill();
        }
    }

    fn close_channel(&mut self, poller: &Poller) {
        if let Some(channel) = self.channel.take() {
            poller.remove(&channel);
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> Outcome<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(signal).stage("signal exec"))
    }

    pub(crate) fn resize(&self, window: WindowSize) -> Outcome<()> {
        self.terminal.as_ref().map_or(Ok(()), |master| child::resize(master.as_fd(), window).stage("set terminal size"))
    }

    pub(crate) fn state(&self) -> ExecState {
        let pid = self.process.as_ref().map(|process| process.pid);
        ExecState { id: self.id.clone(), pid, exit: self.exit }
    }
}

/// The descriptors that came along, each in its place.
fn standard(spec: &ExecSpec, fds: Vec<OwnedFd>) -> Outcome<Stdio> {
    let refused = |message: &str| refuse(ShimErrorKind::Invalid, "exec", message);
    if spec.tty {
        return if fds.is_empty() { Ok(Stdio::Terminal) } else { Err(refused("a terminal takes no descriptors")) };
    }
    if fds.len() != spec.stdio.len() {
        return Err(refused("not as many descriptors as named"));
    }
    let mut files = [None, None, None];
    for (kind, fd) in spec.stdio.iter().zip(fds) {
        let place = match kind {
            Standard::Stdin => 0,
            Standard::Stdout => 1,
            Standard::Stderr => 2,
        };
        files[place] = Some(fd);
    }
    Ok(Stdio::Files(files))
}
