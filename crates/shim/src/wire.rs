//! The protocol between the runtime and a shim.
//!
//! A stream socket carries frames: the length of the body (`u32`, little endian), then the body, JSON. Descriptors ride
//! on a frame's first byte (`SCM_RIGHTS`); how many belong to it stands in the body (`fds`).
//!
//! The runtime sends [`Call`]s; the shim answers each with a [`Reply`] of the same `seq`, in any order, and sends
//! [`Event`]s to every connection that has said [`Request::Hello`]. An exit stays in [`State`] until it is forgotten,
//! so that a runtime which was away asks [`Request::State`] and misses nothing.
//!
//! The protocol only grows: new fields have defaults, new requests are refused as `Unsupported` by an older shim, and
//! an unknown event reads as [`Event::Unknown`]. What breaks raises [`VERSION`]; a runtime speaks [`OLDEST`] to
//! [`VERSION`], since shims outlive the agent that started them.

mod client;
mod external;
mod files;
mod frame;
mod hook;
mod message;
mod spec;

pub use client::{Client, ClientError};
pub use external::{Command, External, Launch, Mounted};
pub use files::{Device, DeviceKind, Mount, MountKind, Propagation, Rootfs};
pub use frame::{Decoder, Frame, MAX_FRAME, encode, receive, send_all};
pub use hook::{Hook, HookStatus, InsideHooks, hook_state};
pub use message::{
    Call, ContainerState, Created, Event, ExecState, Executing, Exit, Message, Phase, Reply, Request, ResolvedUser,
    Response, ShimError, ShimErrorKind, State, Welcome,
};
pub use spec::{
    CapabilitySets, CgroupSpec, ContainerSpec, ExecSpec, Groups, IdMaps, IdRange, LogLimits, LogSpec, NamespaceKind,
    Namespaces, PidNamespace, Process, Rlimit, SandboxSpec, Scope, Seccomp, Stdio, UserNamespace, UserSpec, WindowSize,
};

/// The version this build speaks. The second has [`Process::apparmor`], the third [`ContainerSpec::external`] and
/// [`ExecSpec::external`]; older shims would pass over them.
pub const VERSION: u32 = 3;

/// The oldest version this build still speaks.
pub const OLDEST: u32 = 1;

/// What the binary is called when it is only to hold a control group until the descriptor in the listener's place ends.
pub const HOLDER: &str = "podd-holder";

/// The descriptor number at which a shim finds its listening socket when it starts.
pub const LISTENER_FD: i32 = 3;
