//! One exec: a further process in a running container, from its fork to its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podd_shim::wire::{
    CgroupSpec, Event, ExecSpec, ExecState, Executing, Exit, Response, ShimError, ShimErrorKind, Stdio as Standard,
    WindowSize,
};
use rustix::process::WaitStatus;

use crate::child::{self, Heard, Report, Stdio, Target};
use crate::clock;
use crate::container::Fate;
use crate::fault::{Outcome, Stage, refuse};
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
    forgotten: bool,
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
        let (ours, theirs) = process::channel().stage("make channel")?;
        poller.add(&ours, Token::Exec(serial)).stage("watch child")?;
        let v2 = place.cgroup.v2_dir.as_deref();
        let cradle = Cradle { namespaces: 0, pid_namespace: Some(place.pid_namespace), cgroup: v2 };
        let target = Target { pidfd: place.process.pidfd.as_fd(), join: &place.cgroup.join };
        let users = Needed::pod(place.users);
        let forked = Process::fork(&cradle, || child::run_exec(spec, &target, users, stdio, theirs)).stage("fork");
        let process = forked.inspect_err(|_| poller.remove(&ours))?;
        Ok(Self {
            id: spec.id.clone(),
            container: place.container,
            container_id: spec.container.clone(),
            client: caller.client,
            process: Some(process),
            channel: Some(ours),
            caller: Some(caller),
            deadline: Some(process::deadline(spec.deadline_ms)),
            going: false,
            started_at: 0,
            exit: None,
            terminal: None,
            forgotten: false,
        })
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
                Heard::Nothing | Heard::Report(Report::Paused, _) => break,
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
                    self.deadline = None;
                    self.started_at = clock::now();
                    let pid = self.process.as_ref().map_or(0, |process| process.pid);
                    let master = self.terminal.as_ref().map(OwnedFd::try_clone).transpose();
                    let answer = master
                        .stage("share terminal")
                        .map(|master| (Response::Executing(Executing { pid, started_at: self.started_at }), master));
                    match answer {
                        Ok((response, master)) => {
                            outbox.answer_with(&mut self.caller, Ok(response), master.into_iter().collect());
                        }
                        Err(error) => return self.on_failure(error, poller, outbox),
                    }
                }
            }
        }
        Fate::Kept
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

    /// Its process has been reaped.
    pub(crate) fn on_end(&mut self, status: WaitStatus, poller: &Poller, outbox: &mut Outbox) -> Fate {
        if self.on_report(poller, outbox) == Fate::Dropped {
            return Fate::Dropped;
        }
        self.process = None;
        if self.caller.is_some() {
            let message = format!("the child ended: {}", process::words(status));
            return self.on_failure(refuse(ShimErrorKind::System, "set up exec", message), poller, outbox);
        }
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
        self.terminal = None;
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
