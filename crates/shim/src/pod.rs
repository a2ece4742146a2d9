//! The pod: its containers and execs in their sandbox, and what a runtime may ask of them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use podd_shim::wire::{
    ContainerSpec, ExecSpec, NamespaceKind, PidNamespace, Request, Response, ShimError, ShimErrorKind, State,
};
use podd_sys::namespace::{Kind, open_of_process};
use rustix::process::WaitStatus;

use crate::container::{Container, Fate};
use crate::fault::{Outcome, Stage, refuse};
use crate::launch::Strays;
use crate::log::{Channel, Scratch};
use crate::oom::Ledger;
use crate::outbox::{Caller, Outbox};
use crate::poller::{Poller, Serial};
use crate::sandbox::Sandbox;
use crate::session::{Place, Session};

/// Everything that a shim knows.
#[derive(Default)]
pub(crate) struct Pod {
    sandbox: Sandbox,
    /// In the order of their creation.
    containers: BTreeMap<Serial, Container>,
    sessions: BTreeMap<Serial, Session>,
    last: Serial,
    oom: Ledger,
    strays: Strays,
}

impl Pod {
    pub(crate) fn sandbox(&self) -> Option<&String> {
        self.sandbox.id()
    }

    pub(crate) fn on_init_report(&mut self, poller: &Poller, outbox: &mut Outbox) {
        self.sandbox.on_init_report(poller, outbox);
    }

    /// Carries out a request. What takes time is answered later, through the outbox.
    pub(crate) fn call(
        &mut self,
        caller: Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        poller: &Poller,
        outbox: &mut Outbox,
    ) {
        let answered = match request {
            Request::Setup(spec) => self.sandbox.set_up(spec, fds, caller, poller),
            Request::Create(spec) => self.create(&spec, caller, poller).map(|()| None),
            Request::Proceed { id } => {
                self.container(&id).and_then(|container| container.proceed(caller)).map(|()| None)
            }
            Request::Start { id } => self.container(&id).and_then(|container| container.start(caller)).map(|()| None),
            Request::Exec(spec) => self.exec(&spec, fds, caller, poller).map(|()| None),
            Request::Namespaces => match self.sandbox.share_namespaces() {
                Ok((kinds, fds)) => {
                    return outbox.answer_with(&mut Some(caller), Ok(Response::Namespaces { kinds }), fds);
                }
                Err(error) => Err(error),
            },
            Request::Attach { id, outputs, stdin } => {
                let attached =
                    self.container(&id).and_then(|container| container.attach(&outputs, fds, stdin, caller.client));
                match attached {
                    Ok(stdin) => {
                        let fds = stdin.into_iter().collect();
                        return outbox.answer_with(&mut Some(caller), Ok(Response::Attached), fds);
                    }
                    Err(error) => Err(error),
                }
            }
            Request::State => Ok(Some(Response::State(self.state()))),
            Request::Forget { id } => self.forget(&id, poller, outbox).map(|()| Some(Response::Done)),
            other => self.order(other).map(|()| Some(Response::Done)),
        };
        if let Some(result) = answered.transpose() {
            outbox.answer(&mut Some(caller), result);
        }
    }

    /// The requests that are done at once.
    fn order(&mut self, request: Request) -> Outcome<()> {
        match request {
            Request::Signal { id, exec: None, signal, all } => self.container(&id)?.signal(signal, all),
            Request::Signal { id, exec: Some(exec), signal, .. } => self.session(&id, &exec)?.signal(signal),
            Request::Resize { id, exec: None, window } => self.container(&id)?.resize(window),
            Request::Resize { id, exec: Some(exec), window } => self.session(&id, &exec)?.resize(window),
            Request::CloseStdin { id } => {
                self.container(&id)?.close_stdin();
                Ok(())
            }
            Request::ReopenLog { id } => self.container(&id)?.reopen_log(),
            Request::LogLimits { id, limits } => {
                self.container(&id)?.set_log_limits(limits);
                Ok(())
            }
            Request::ForgetExec { id, exec } => {
                self.forget_exec(&id, &exec);
                Ok(())
            }
            Request::Shutdown => self.end(),
            _ => Err(refuse(ShimErrorKind::Invalid, "call", "this request has another place")),
        }
    }

    fn create(&mut self, spec: &ContainerSpec, caller: Caller, poller: &Poller) -> Outcome<()> {
        if self.sandbox.id().is_none() {
            return Err(refuse(ShimErrorKind::WrongState, "create container", "the sandbox is not set up"));
        }
        if self.containers.values().any(|container| container.id == spec.id) {
            return Err(refuse(ShimErrorKind::AlreadyExists, "create container", spec.id.clone()));
        }
        if spec.external.is_some() && self.sandbox.namespaces().get(NamespaceKind::User).is_some() {
            let message = "another runtime makes no container in the pod's user namespace";
            return Err(refuse(ShimErrorKind::Invalid, "create container", message));
        }
        let target;
        let pid_namespace = match &spec.namespaces.pid {
            PidNamespace::Private | PidNamespace::Host => None,
            PidNamespace::Pod => match self.sandbox.namespaces().get(NamespaceKind::Pid) {
                Some(namespace) => Some(namespace),
                None => {
                    let message = "the sandbox has no PID namespace";
                    return Err(refuse(ShimErrorKind::Invalid, "create container", message));
                }
            },
            PidNamespace::Target(id) => {
                target = self.pid_namespace_of(id)?;
                Some(target.as_fd())
            }
        };
        let serial = self.last + 1;
        self.oom.open(spec.cgroup.oom_counter.as_deref());
        let container = Container::create(spec, serial, self.sandbox.namespaces(), pid_namespace, caller, poller)?;
        self.last = serial;
        self.containers.insert(serial, container);
        Ok(())
    }

    fn exec(&mut self, spec: &ExecSpec, fds: Vec<OwnedFd>, caller: Caller, poller: &Poller) -> Outcome<()> {
        let pid_namespace = self.pid_namespace_of(&spec.container)?;
        let (serial, container) = self.find(&spec.container)?;
        if self.sessions.values().any(|session| session.container == serial && session.id == spec.id) {
            return Err(refuse(ShimErrorKind::AlreadyExists, "exec", spec.id.clone()));
        }
        let (process, cgroup) = container.running().ok_or_else(|| not_running(&spec.container))?;
        let users = self.sandbox.namespaces().users()?;
        let place = Place { container: serial, process, cgroup, pid_namespace: pid_namespace.as_fd(), users };
        let own = self.last + 1;
        let session = Session::begin(spec, own, place, fds, caller, poller)?;
        self.last = own;
        self.sessions.insert(own, session);
        Ok(())
    }

    fn pid_namespace_of(&self, id: &str) -> Outcome<OwnedFd> {
        let (_, container) = self.find(id)?;
        let (process, _) = container.running().ok_or_else(|| not_running(id))?;
        open_of_process(process.pid, Kind::Pid).stage("open pid namespace")
    }

    fn find(&self, id: &str) -> Outcome<(Serial, &Container)> {
        let found = self.containers.iter().find(|(_, container)| container.id == id);
        found.map(|(serial, container)| (*serial, container)).ok_or_else(|| unknown("container", id))
    }

    fn container(&mut self, id: &str) -> Outcome<&mut Container> {
        self.containers.values_mut().find(|container| container.id == id).ok_or_else(|| unknown("container", id))
    }

    fn session(&mut self, container: &str, id: &str) -> Outcome<&mut Session> {
        let (serial, _) = self.find(container)?;
        let found = self.sessions.values_mut().find(|session| session.container == serial && session.id == id);
        found.ok_or_else(|| unknown("exec", id))
    }

    fn forget(&mut self, id: &str, poller: &Poller, outbox: &mut Outbox) -> Outcome<()> {
        let Ok((serial, container)) = self.find(id) else { return Ok(()) };
        if container.running().is_some() {
            return Err(refuse(ShimErrorKind::WrongState, "forget container", "it runs"));
        }
        for (_, mut session) in self.sessions.extract_if(.., |_, session| session.container == serial) {
            session.end(poller, outbox);
        }
        if let Some(mut container) = self.containers.remove(&serial) {
            self.oom.close(container.oom_kills().unwrap_or(0));
            container.forget(poller, outbox);
        }
        Ok(())
    }

    fn forget_exec(&mut self, container: &str, id: &str) {
        let Ok((serial, _)) = self.find(container) else { return };
        self.sessions
            .retain(|_, session| session.container != serial || session.id != id || session.forget() == Fate::Kept);
    }

    fn end(&mut self) -> Outcome<()> {
        if let Some(container) = self.containers.values().find(|container| !container.is_exited()) {
            let message = format!("container {} lives", container.id);
            return Err(refuse(ShimErrorKind::Busy, "shut down", message));
        }
        self.sandbox.end();
        Ok(())
    }

    fn state(&self) -> State {
        let containers = self.containers.iter().map(|(serial, container)| {
            let mut state = container.state();
            let sessions = self.sessions.values().filter(|session| session.container == *serial);
            state.execs = sessions.map(Session::state).collect();
            state
        });
        State {
            sandbox: self.sandbox.id().cloned(),
            init_pid: self.sandbox.init_pid(),
            containers: containers.collect(),
        }
    }

    pub(crate) fn on_container_report(&mut self, serial: Serial, poller: &Poller, outbox: &mut Outbox) {
        if let Some(container) = self.containers.get_mut(&serial)
            && container.on_report(poller, outbox) == Fate::Dropped
        {
            self.containers.remove(&serial);
        }
    }

    pub(crate) fn on_exec_report(&mut self, serial: Serial, poller: &Poller, outbox: &mut Outbox) {
        if let Some(session) = self.sessions.get_mut(&serial)
            && session.on_report(poller, outbox) == Fate::Dropped
        {
            self.sessions.remove(&serial);
        }
    }

    pub(crate) fn on_output(&mut self, serial: Serial, which: Channel, poller: &Poller, scratch: &mut Scratch) {
        if let Some(container) = self.containers.get_mut(&serial) {
            container.on_output(which, poller, scratch);
        }
    }

    pub(crate) fn on_client_gone(&mut self, client: Serial) {
        for session in self.sessions.values_mut() {
            session.on_client_gone(client);
        }
        for container in self.containers.values_mut() {
            container.on_client_gone(client);
        }
    }

    /// A child has been reaped; one that is nobody's was an orphan, or given up before.
    pub(crate) fn on_end(
        &mut self,
        pid: u32,
        status: WaitStatus,
        poller: &Poller,
        scratch: &mut Scratch,
        outbox: &mut Outbox,
    ) {
        if self.sandbox.init_pid() == Some(pid) {
            self.sandbox.on_init_end(poller, outbox);
        }
        self.keep_stray(pid, status);
        let strays = &mut self.strays;
        self.sessions.retain(|_, session| {
            !session.is_process(pid) || session.on_end(status, strays, poller, outbox) == Fate::Kept
        });
        self.containers.retain(|_, container| {
            !container.is_starter(pid) || container.on_started(status, poller, scratch, outbox) == Fate::Kept
        });
        // Before anything else: the group may be about to go.
        let oom_kills = self.oom_kills_of(pid);
        self.containers.retain(|_, container| {
            !container.is_process(pid) || container.on_end(status, oom_kills, poller, scratch, outbox) == Fate::Kept
        });
    }

    /// Keeps the end of a process that is nobody's yet.
    fn keep_stray(&mut self, pid: u32, status: WaitStatus) {
        if !self.sessions.values().any(Session::is_launching) {
            return self.strays.clear();
        }
        let known = self.sessions.values().any(|session| session.is_process(pid))
            || self.containers.values().any(|container| container.is_process(pid) || container.is_starter(pid));
        if !known {
            self.strays.add(pid, status);
        }
    }

    /// How often the kernel has killed in the group of the container whose first process this is.
    fn oom_kills_of(&self, pid: u32) -> u64 {
        let Some(ended) = self.containers.values().find(|container| container.is_process(pid)) else { return 0 };
        ended.oom_kills().unwrap_or_else(|| {
            let others = self.containers.values().filter(|container| !container.is_process(pid));
            self.oom.unexplained(ended.oom_counter(), others.filter_map(Container::oom_kills).sum())
        })
    }

    /// The next moment at which somebody is late, on the monotonic clock.
    pub(crate) fn deadline(&self) -> Option<i64> {
        let containers = self.containers.values().filter_map(Container::deadline);
        let sessions = self.sessions.values().filter_map(Session::deadline);
        containers.chain(sessions).chain(self.sandbox.deadline()).min()
    }

    /// Gives up whoever is late.
    pub(crate) fn on_time(&mut self, now: i64, poller: &Poller, outbox: &mut Outbox) {
        let late = |deadline: Option<i64>| deadline.is_some_and(|deadline| deadline <= now);
        if late(self.sandbox.deadline()) {
            self.sandbox.on_deadline(poller, outbox);
        }
        self.sessions
            .retain(|_, session| !late(session.deadline()) || session.on_deadline(poller, outbox) == Fate::Kept);
        self.containers
            .retain(|_, container| !late(container.deadline()) || container.on_deadline(poller, outbox) == Fate::Kept);
    }
}

fn unknown(what: &str, id: &str) -> ShimError {
    refuse(ShimErrorKind::NotFound, &format!("find {what}"), id)
}

fn not_running(id: &str) -> ShimError {
    refuse(ShimErrorKind::WrongState, "enter container", format!("{id} does not run"))
}
