//! Calls, replies and events.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::external::Mounted;
use super::spec::{ContainerSpec, ExecSpec, LogLimits, NamespaceKind, SandboxSpec, Stdio, WindowSize};

/// What the runtime sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the runtime; the reply repeats it.
    pub seq: u64,
    /// How many descriptors belong to this frame.
    #[serde(default)]
    pub fds: u32,
    /// What is asked.
    pub request: Request,
}

/// What a runtime may ask of a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First on every connection. → [`Response::Welcome`]. `Unsupported` when no version is common.
    Hello {
        /// The newest version the runtime speaks.
        version: u32,
        /// The oldest it speaks.
        oldest: u32,
    },
    /// Once in a shim's life. → [`Response::Done`], or [`Response::SetUp`] when there is something to tell.
    Setup(SandboxSpec),
    /// Makes a container up to the point of exec. → [`Response::Created`], or [`Response::Paused`] where the
    /// specification asks for that, or [`Response::Mounted`] where another runtime makes it.
    Create(Box<ContainerSpec>),
    /// Lets a container that paused in its creation, or was mounted, go on. → [`Response::Created`].
    Proceed {
        /// The container.
        id: String,
    },
    /// Lets a created container exec. → [`Response::Started`], or an error of kind `ExecNotFound`,
    /// `ExecPermission` or `System` and the container is `Exited` (127, 126 or 128) as Kubernetes' StartError has it.
    Start {
        /// The container.
        id: String,
    },
    /// Sends a signal. → [`Response::Done`], also when the process is gone already.
    Signal {
        /// The container.
        id: String,
        /// The exec in it; `None` is its first process.
        #[serde(default)]
        exec: Option<String>,
        /// The number.
        signal: i32,
        /// To every process of the container's cgroup.
        #[serde(default)]
        all: bool,
    },
    /// Runs a process in a running container. → [`Response::Executing`], with the terminal's master when it has one.
    Exec(Box<ExecSpec>),
    /// Changes a terminal's size. → [`Response::Done`].
    Resize {
        /// The container.
        id: String,
        /// The exec in it; `None` is its first process.
        #[serde(default)]
        exec: Option<String>,
        /// The new size.
        window: WindowSize,
    },
    /// Joins the streams of a container that has not ended. The descriptors that come along are pipes to write `outputs`
    /// to, in that order (with a terminal, stdout alone says anything); they are closed when there will be no more, or
    /// when they are full: nobody waits for a slow reader. → [`Response::Attached`], with a descriptor to write stdin to
    /// if `stdin` is asked for and the container has one.
    Attach {
        /// The container.
        id: String,
        /// Which descriptors come along.
        #[serde(default)]
        outputs: Vec<Stdio>,
        /// A descriptor for stdin is wanted. With [`ContainerSpec::stdin_once`], stdin closes when this connection does.
        #[serde(default)]
        stdin: bool,
    },
    /// Closes a container's stdin. → [`Response::Done`].
    CloseStdin {
        /// The container.
        id: String,
    },
    /// Opens the log file anew after someone renamed it. → [`Response::Done`].
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Changes when the log rotates. → [`Response::Done`].
    LogLimits {
        /// The container.
        id: String,
        /// The new limits.
        limits: LogLimits,
    },
    /// Drops an exited container (or one that was created and never started: it is killed). → [`Response::Done`],
    /// also when it is unknown.
    Forget {
        /// The container.
        id: String,
    },
    /// Drops an exited exec. → [`Response::Done`], also when it is unknown.
    ForgetExec {
        /// The container.
        id: String,
        /// The exec.
        exec: String,
    },
    /// Everything the shim knows. → [`Response::State`].
    State,
    /// The pod's namespaces. → [`Response::Namespaces`] with descriptors in that order.
    Namespaces,
    /// Ends the shim when no container lives ([`ShimErrorKind::Busy`] otherwise). → [`Response::Done`], then the end
    /// of the connection; the socket's file is the runtime's to remove.
    Shutdown,
}

/// What a shim sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a call.
    Reply(Reply),
    /// Something happened.
    Event(Event),
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The call's.
    pub seq: u64,
    /// How many descriptors belong to this frame.
    #[serde(default)]
    pub fds: u32,
    /// The outcome.
    pub result: Result<Response, ShimError>,
}

/// What a call gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Nothing to tell.
    Done,
    /// To [`Request::Hello`].
    Welcome(Welcome),
    /// To [`Request::Setup`], when not all was allowed.
    SetUp {
        /// What the machine did not allow and the shim went on without.
        warnings: Vec<String>,
    },
    /// To [`Request::Create`], and to [`Request::Proceed`].
    Created(Created),
    /// To [`Request::Create`]: all is mounted, and the child waits before it enters its root.
    Paused {
        /// The child, as the shim sees it.
        pid: u32,
    },
    /// To [`Request::Create`]: all is mounted, and the other runtime's configuration can be written.
    Mounted(Mounted),
    /// To [`Request::Start`].
    Started {
        /// Unix nanoseconds.
        started_at: i64,
    },
    /// To [`Request::Exec`].
    Executing(Executing),
    /// To [`Request::Attach`].
    Attached,
    /// To [`Request::State`].
    State(State),
    /// To [`Request::Namespaces`]: the kinds of the descriptors that come along.
    Namespaces {
        /// In the order of the descriptors.
        kinds: Vec<NamespaceKind>,
    },
}

/// The shim introduces itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak on this connection.
    pub version: u32,
    /// The shim's pid, as the runtime's PID namespace sees it.
    pub pid: u32,
    /// The sandbox id, once set up.
    #[serde(default)]
    pub sandbox: Option<String>,
}

/// A container that waits for its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its first process, as the shim sees it.
    pub pid: u32,
    /// As whom it will run.
    pub user: ResolvedUser,
    /// What the machine did not allow and podd went on without.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A user in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one included.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// An exec that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executing {
    /// Its process, as the shim sees it.
    pub pid: u32,
    /// Unix nanoseconds.
    pub started_at: i64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 + signal; 127, 126 or 128 when exec did not succeed.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// The cgroup's OOM counter grew during its life and SIGKILL ended it, or it grew and the exit was not clean.
    #[serde(default)]
    pub oom_killed: bool,
    /// Unix nanoseconds; 0 when it never started.
    #[serde(default)]
    pub started_at: i64,
    /// Unix nanoseconds.
    pub finished_at: i64,
}

/// Everything a shim knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The sandbox id, once set up.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// The shared PID namespace's reaper, while it lives.
    #[serde(default)]
    pub init_pid: Option<u32>,
    /// All containers not yet forgotten, in the order of their creation.
    #[serde(default)]
    pub containers: Vec<ContainerState>,
}

/// One container, as the shim knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container id.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// Its first process while it lives.
    #[serde(default)]
    pub pid: Option<u32>,
    /// As whom it runs.
    #[serde(default)]
    pub user: ResolvedUser,
    /// Unix nanoseconds; 0 before.
    #[serde(default)]
    pub started_at: i64,
    /// How it ended, once it has.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why it could not be started, when that is why it ended.
    #[serde(default)]
    pub start_error: Option<ShimError>,
    /// Bytes of output that were lost because the log could not be written.
    #[serde(default)]
    pub log_bytes_dropped: u64,
    /// Execs not yet forgotten.
    #[serde(default)]
    pub execs: Vec<ExecState>,
}

/// How far a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its child sets itself up.
    #[default]
    Creating,
    /// It waits for its start.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Exited,
}

/// One exec, as the shim knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// The exec's id.
    pub id: String,
    /// Its process while it lives.
    #[serde(default)]
    pub pid: Option<u32>,
    /// How it ended, once it has.
    #[serde(default)]
    pub exit: Option<Exit>,
}

/// What a shim tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container ended; its output is in the log.
    Exited {
        /// The container.
        id: String,
        /// How.
        exit: Exit,
    },
    /// An exec ended.
    ExecExited {
        /// The container.
        id: String,
        /// The exec.
        exec: String,
        /// How.
        exit: Exit,
    },
    /// The shared PID namespace's reaper ended, and with it every container in it.
    InitExited,
    /// Something of a newer shim.
    #[serde(other)]
    Unknown,
}

/// A refusal or a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{stage}{}{}", at(.path), because(.message))]
pub struct ShimError {
    /// For callers that choose.
    pub kind: ShimErrorKind,
    /// What was tried, such as `mount`, `join cgroup`, `exec`.
    pub stage: String,
    /// On what.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The kernel's answer.
    #[serde(default)]
    pub errno: Option<i32>,
    /// The reason in words.
    #[serde(default)]
    pub message: String,
}

fn at(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// What kind of refusal or failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimErrorKind {
    /// No such container or exec.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request makes no sense.
    Invalid,
    /// Not in this state (start of a running container, exec in a stopped one, setup twice).
    WrongState,
    /// Containers are left.
    Busy,
    /// The program does not exist (a shell's 127).
    ExecNotFound,
    /// The program may not be run (a shell's 126).
    ExecPermission,
    /// The child missed its deadline and was killed.
    Timeout,
    /// A request or version this shim does not know.
    Unsupported,
    /// A system call failed; see `stage`, `path` and `errno`.
    System,
}
