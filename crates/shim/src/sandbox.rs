//! The sandbox: the pod's namespaces, the shim's own place, and the init of a shared PID namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podd_shim::wire::{Event, IdMaps, NamespaceKind, Response, SandboxSpec, ShimError, ShimErrorKind};
use podd_sys::namespace::{Kind, open_of_process};
use rustix::thread::UnshareFlags;

use crate::child::{self, Heard, Report};
use crate::fault::{Outcome, Stage, refuse};
use crate::outbox::{Caller, Outbox};
use crate::poller::{Poller, Token};
use crate::process::{self, Cradle, Process};
use crate::users::{self, Users};

/// The namespaces that the pod owns.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    list: Vec<(NamespaceKind, OwnedFd)>,
    /// Of its user namespace.
    ids: Option<IdMaps>,
}

impl Namespaces {
    pub(crate) fn get(&self, kind: NamespaceKind) -> Option<BorrowedFd<'_>> {
        self.list.iter().find(|(found, _)| *found == kind).map(|(_, fd)| fd.as_fd())
    }

    /// The pod's users, if they are not the host's.
    pub(crate) fn users(&self) -> Outcome<Option<Users>> {
        let Some((ids, namespace)) = self.ids.as_ref().zip(self.get(NamespaceKind::User)) else { return Ok(None) };
        let namespace = namespace.try_clone_to_owned().stage("hold user namespace")?;
        Ok(Some(Users { ids: ids.clone(), namespace }))
    }
}

/// A set-up that waits for the init to be ready.
struct Settling {
    channel: OwnedFd,
    caller: Option<Caller>,
    deadline: i64,
    /// What to tell besides.
    warnings: Vec<String>,
}

/// What all containers of the pod have in common.
#[derive(Default)]
pub(crate) struct Sandbox {
    /// Once it is set up.
    id: Option<String>,
    namespaces: Namespaces,
    /// The reaper of a shared PID namespace.
    init: Option<Process>,
    /// Until it has set itself up.
    settling: Option<Settling>,
}

impl Sandbox {
    pub(crate) fn id(&self) -> Option<&String> {
        self.id.as_ref()
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(crate) fn init_pid(&self) -> Option<u32> {
        self.init.as_ref().map(|init| init.pid)
    }

    /// Takes the pod's namespaces and enters its own cgroup. Answered later when there is an init to wait for.
    pub(crate) fn set_up(
        &mut self,
        spec: SandboxSpec,
        fds: Vec<OwnedFd>,
        caller: Caller,
        poller: &Poller,
    ) -> Outcome<Option<Response>> {
        if self.id.is_some() {
            return Err(refuse(ShimErrorKind::WrongState, "set up sandbox", "it is set up"));
        }
        if fds.len() != spec.namespaces.len() {
            return Err(refuse(ShimErrorKind::Invalid, "set up sandbox", "not as many descriptors as namespaces"));
        }
        child::join_cgroups(&spec.cgroup_join)?;
        let mut warnings = Vec::new();
        if let Some(value) = spec.oom_score_adj {
            child::adjust_oom_score(value, &mut warnings)?;
        }
        let mut namespaces: Vec<_> = spec.namespaces.into_iter().zip(fds).collect();
        if let Some(user) = &spec.user {
            namespaces.extend(users::make(user)?);
        }
        if spec.pid_namespace {
            let (ours, theirs) = process::channel().stage("make channel")?;
            poller.add(&ours, Token::Init).stage("watch init")?;
            let birth = UnshareFlags::NEWPID | UnshareFlags::NEWNS;
            let cradle = Cradle { namespaces: birth.bits(), ..Cradle::default() };
            let forked = Process::fork(&cradle, || child::run_init(&spec.init_cgroup_join, theirs)).stage("fork init");
            let init = forked.inspect_err(|_| poller.remove(&ours))?;
            let namespace = open_of_process(init.pid, Kind::Pid).stage("open pid namespace").inspect_err(|_| {
                poller.remove(&ours);
                init.kill();
            })?;
            namespaces.push((NamespaceKind::Pid, namespace));
            self.init = Some(init);
            let (caller, warnings) = (Some(caller), std::mem::take(&mut warnings));
            self.settling = Some(Settling { channel: ours, caller, deadline: process::deadline(0), warnings });
        }
        self.namespaces = Namespaces { list: namespaces, ids: spec.user.map(|user| user.ids) };
        self.id = Some(spec.id);
        Ok(self.settling.is_none().then(|| is_set_up(warnings)))
    }

    /// The init is ready, or there will be none and the sandbox is not set up.
    pub(crate) fn on_init_report(&mut self, poller: &Poller, outbox: &mut Outbox) {
        let Some(settling) = &self.settling else { return };
        let error = match child::hear(settling.channel.as_fd()) {
            Heard::Nothing | Heard::Report(Report::Paused | Report::Mounted { .. }, _) => return,
            Heard::Report(Report::Ready { .. }, _) => None,
            Heard::Report(Report::Failed(error), _) => Some(error),
            Heard::Closed => Some(refuse(ShimErrorKind::System, "set up init", "it ended")),
        };
        self.settle(error, poller, outbox);
    }

    fn settle(&mut self, error: Option<ShimError>, poller: &Poller, outbox: &mut Outbox) {
        let Some(mut settling) = self.settling.take() else { return };
        poller.remove(&settling.channel);
        let Some(error) = error else {
            return outbox.answer(&mut settling.caller, Ok(is_set_up(settling.warnings)));
        };
        if let Some(init) = self.init.take() {
            // Reaped as a child that nobody knows.
            init.kill();
        }
        self.namespaces = Namespaces::default();
        self.id = None;
        outbox.answer(&mut settling.caller, Err(error));
    }

    /// The init has been reaped.
    pub(crate) fn on_init_end(&mut self, poller: &Poller, outbox: &mut Outbox) {
        // What it said before its end comes first.
        self.on_init_report(poller, outbox);
        if self.init.take().is_some() {
            outbox.events.push(Event::InitExited);
        }
    }

    /// When the init has to be ready, on the monotonic clock.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.settling.as_ref().map(|settling| settling.deadline)
    }

    /// The init is late.
    pub(crate) fn on_deadline(&mut self, poller: &Poller, outbox: &mut Outbox) {
        let error = refuse(ShimErrorKind::Timeout, "set up init", "it missed its deadline and was killed");
        self.settle(Some(error), poller, outbox);
    }

    /// Ends the init.
    pub(crate) fn end(&mut self) {
        if let Some(init) = self.init.take() {
            init.kill();
        }
    }

    /// The namespaces for a runtime.
    pub(crate) fn share_namespaces(&self) -> Outcome<(Vec<NamespaceKind>, Vec<OwnedFd>)> {
        let fds: Result<Vec<OwnedFd>, _> = self.namespaces.list.iter().map(|(_, fd)| fd.try_clone()).collect();
        Ok((self.namespaces.list.iter().map(|(kind, _)| *kind).collect(), fds.stage("share namespaces")?))
    }
}

fn is_set_up(warnings: Vec<String>) -> Response {
    if warnings.is_empty() { Response::Done } else { Response::SetUp { warnings } }
}
