//! A running shim, and short ways to say what a runtime says to it.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use podd_shim::wire::{
    CapabilitySets, Client, ClientError, ContainerSpec, ContainerState, Created, Event, ExecSpec, Executing, Exit,
    LISTENER_FD, LogSpec, NamespaceKind, Process, Request, Response, Rootfs, SandboxSpec, Seccomp, ShimError, State,
    Stdio,
};
use podd_sys::namespace::{PodNamespacesSpec, create_pod_namespaces};
use podd_sys::spawn::{Program, Spawn, Spawned, spawn};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, waitpid};
use rustix::time::Timespec;
use tempfile::TempDir;

use crate::image;

/// Longer than anything here takes on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A shim with a sandbox.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) shim: Spawned,
    /// What the machine did not allow at its set-up.
    pub(crate) warnings: Vec<String>,
    directory: TempDir,
    /// The first processes of containers: they end with the test.
    held: Vec<OwnedFd>,
    reaped: bool,
}

impl Node {
    /// A pod with net, ipc and uts namespaces of its own.
    pub(crate) fn new() -> Self {
        Self::with(SandboxSpec::default())
    }

    /// The same, with more said about the sandbox.
    pub(crate) fn with(spec: SandboxSpec) -> Self {
        let mut node = Self::bare();
        let wanted =
            PodNamespacesSpec { net: true, ipc: true, uts: true, hostname: Some("inside".into()), sysctls: vec![] };
        let made = create_pod_namespaces(&wanted).unwrap();
        let fds = [made.net.unwrap(), made.ipc.unwrap(), made.uts.unwrap()];
        let kinds = vec![NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts];
        let spec = SandboxSpec { id: "sandbox".into(), namespaces: kinds, ..spec };
        let fds = fds.each_ref().map(AsFd::as_fd);
        node.warnings = match node.client.call_with_fds(Request::Setup(spec), &fds).unwrap().0 {
            Response::Done => Vec::new(),
            Response::SetUp { warnings } => warnings,
            other => panic!("{other:?}"),
        };
        node
    }

    /// A shim that knows no sandbox yet.
    pub(crate) fn bare() -> Self {
        let directory = TempDir::new().unwrap();
        image::make(&directory.path().join("layer"));
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let args = ["podd-shim", "sandbox"].map(|arg| CString::new(arg).unwrap());
        let request = Spawn {
            program: Program::Fd(binary()),
            args: &args,
            env: &[],
            fds: &[(LISTENER_FD, listener.as_fd())],
            new_session: true,
        };
        let shim = spawn(&request).unwrap();
        let (client, welcome) = Client::connect(&socket).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        assert_eq!((welcome.pid, welcome.sandbox), (shim.pid, None));
        Self { client, shim, warnings: Vec::new(), directory, held: Vec::new(), reaped: false }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// A further connection.
    pub(crate) fn connect(&self) -> Client {
        let (client, welcome) = Client::connect(&self.socket()).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(welcome.sandbox.as_deref(), Some("sandbox"));
        client
    }

    /// A container that runs a shell script, with a writable layer and a log.
    pub(crate) fn spec(&self, id: &str, script: &str) -> ContainerSpec {
        let directory = self.path(id);
        for part in ["upper", "work"].map(|part| directory.join(part)) {
            // A volatile overlay's directories serve one mount.
            if part.exists() {
                fs::remove_dir_all(&part).unwrap();
            }
            fs::create_dir_all(part).unwrap();
        }
        ContainerSpec {
            id: id.into(),
            process: shell(script),
            rootfs: Rootfs {
                lower: vec![self.path("layer")],
                upper: Some(directory.join("upper")),
                work: Some(directory.join("work")),
                ..Rootfs::default()
            },
            log: Some(LogSpec { path: self.log_path(id), ..LogSpec::default() }),
            ..ContainerSpec::default()
        }
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.path(id).join("0.log")
    }

    /// What a container has logged.
    pub(crate) fn log(&self, id: &str) -> Vec<Line> {
        read_log(&self.log_path(id))
    }

    /// The texts of a container's log.
    pub(crate) fn texts(&self, id: &str) -> Vec<String> {
        self.log(id).into_iter().map(|line| line.text).collect()
    }

    pub(crate) fn order(&mut self, request: Request) {
        assert_eq!(self.client.call(request).unwrap(), Response::Done);
    }

    pub(crate) fn refused(&mut self, request: Request) -> ShimError {
        refusal(self.client.call(request))
    }

    pub(crate) fn create(&mut self, spec: ContainerSpec) -> Created {
        match self.client.call(Request::Create(Box::new(spec))).unwrap() {
            Response::Created(created) => {
                self.held.push(hold(created.pid));
                created
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn start(&mut self, id: &str) -> i64 {
        match self.client.call(Request::Start { id: id.into() }).unwrap() {
            Response::Started { started_at } => started_at,
            other => panic!("{other:?}"),
        }
    }

    /// Creates and starts.
    pub(crate) fn run(&mut self, spec: ContainerSpec) -> Created {
        let id = spec.id.clone();
        let created = self.create(spec);
        self.start(&id);
        created
    }

    /// Runs a script to its end, which has to be a good one, and gives what it wrote.
    pub(crate) fn output(&mut self, spec: ContainerSpec) -> Vec<String> {
        let id = spec.id.clone();
        self.finish(spec);
        self.texts(&id)
    }

    /// Runs a script to its end, which has to be a good one.
    pub(crate) fn finish(&mut self, spec: ContainerSpec) {
        let id = spec.id.clone();
        self.run(spec);
        let exit = self.exit(&id);
        assert_eq!(exit.code, 0, "{:?}", self.texts(&id));
    }

    /// Waits for a container's end. Other events are dropped.
    pub(crate) fn exit(&mut self, wanted: &str) -> Exit {
        loop {
            match self.client.next_event().unwrap() {
                Event::Exited { id, exit } if id == wanted => return exit,
                _ => {}
            }
        }
    }

    /// Waits for an exec's end. Other events are dropped.
    pub(crate) fn exec_exit(&mut self, wanted: &str) -> Exit {
        loop {
            match self.client.next_event().unwrap() {
                Event::ExecExited { exec, exit, .. } if exec == wanted => return exit,
                _ => {}
            }
        }
    }

    /// Waits until a container has logged a text.
    pub(crate) fn await_text(&self, id: &str, text: &str) {
        let found = || self.texts(id).iter().any(|line| line == text).then_some(());
        eventually(PATIENCE, found).unwrap_or_else(|| panic!("no {text} in {:?}", self.texts(id)));
    }

    pub(crate) fn state(&mut self) -> State {
        state(&mut self.client)
    }

    pub(crate) fn container(&mut self, id: &str) -> ContainerState {
        self.state().containers.into_iter().find(|container| container.id == id).unwrap()
    }

    /// Runs a process in a container; its stdout and stderr come together. The terminal's master when it has one.
    pub(crate) fn exec(&mut self, spec: ExecSpec) -> Result<(Executing, OwnedFd), ClientError> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (kinds, fds): (_, Vec<BorrowedFd<'_>>) = match spec.tty {
            true => (vec![], vec![]),
            false => (vec![Stdio::Stdout, Stdio::Stderr], vec![write.as_fd(), write.as_fd()]),
        };
        let request = Request::Exec(Box::new(ExecSpec { stdio: kinds, ..spec }));
        match self.client.call_with_fds(request, &fds)? {
            (Response::Executing(executing), mut fds) => Ok((executing, fds.pop().unwrap_or(read))),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Ends the shim as the kernel would.
    pub(crate) fn kill_shim(&mut self) {
        podd_sys::signal::send(self.shim.pidfd.as_fd(), Signal::KILL.as_raw()).unwrap();
        self.reap_shim();
    }

    /// Waits for the shim's end.
    pub(crate) fn reap_shim(&mut self) {
        assert!(ended_within(self.shim.pidfd.as_fd(), PATIENCE), "the shim does not end");
        waitpid(Pid::from_raw(self.shim.pid as i32), WaitOptions::empty()).unwrap();
        self.reaped = true;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pidfd in self.held.iter().chain((!self.reaped).then_some(&self.shim.pidfd)) {
            let _gone = podd_sys::signal::send(pidfd.as_fd(), Signal::KILL.as_raw());
        }
        if !self.reaped {
            let _reaped = waitpid(Pid::from_raw(self.shim.pid as i32), WaitOptions::empty());
        }
    }
}

/// The binary under test, once for all, as a runtime has it: another build, such as the static one, where the
/// environment names it.
fn binary() -> BorrowedFd<'static> {
    static BINARY: OnceLock<OwnedFd> = OnceLock::new();
    let open = || {
        let path = std::env::var_os("PODD_SHIM_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_podd-shim").into());
        podd_sys::memfd::sealed_executable("podd-shim", &fs::read(path).unwrap()).unwrap()
    };
    BINARY.get_or_init(open).as_fd()
}

/// A line of a CRI log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) time: String,
    pub(crate) stream: String,
    pub(crate) tag: String,
    pub(crate) text: String,
}

pub(crate) fn read_log(path: &Path) -> Vec<Line> {
    let text = String::from_utf8(fs::read(path).unwrap_or_default()).unwrap();
    let line = |line: &str| {
        let mut parts = line.splitn(4, ' ').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_else(|| panic!("not a CRI line: {line}"));
        Line { time: next(), stream: next(), tag: next(), text: next() }
    };
    text.split_terminator('\n').map(line).collect()
}

/// A shell's script as a process with the usual capabilities.
pub(crate) fn shell(script: &str) -> Process {
    program(&["sh", "-c", script])
}

pub(crate) fn program(args: &[&str]) -> Process {
    let caps = podd_sys::capability::DEFAULT;
    Process {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        capabilities: CapabilitySets { bounding: caps, effective: caps, permitted: caps, inheritable: 0, ambient: 0 },
        seccomp: Seccomp::RuntimeDefault,
        ..Process::default()
    }
}

pub(crate) fn exec_of(container: &str, id: &str, process: Process) -> ExecSpec {
    ExecSpec { container: container.into(), id: id.into(), process, ..ExecSpec::default() }
}

pub(crate) fn state(client: &mut Client) -> State {
    match client.call(Request::State).unwrap() {
        Response::State(state) => state,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> ShimError {
    match outcome.unwrap_err() {
        ClientError::Shim(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Holds a process that lives.
pub(crate) fn hold(pid: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap()
}

pub(crate) fn ended_within(pidfd: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads until the other side is closed.
pub(crate) fn read_all(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    match fs::File::from(fd).read_to_end(&mut bytes) {
        // A terminal's way to say that the other side is closed.
        Err(error) if error.raw_os_error() == Some(5) => {}
        outcome => drop(outcome.unwrap()),
    }
    String::from_utf8(bytes).unwrap()
}

/// The namespace of a process, as a name that can be compared.
pub(crate) fn namespace(pid: u32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}
