//! A container's first process, from birth to exec.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use podd_shim::wire::{ContainerSpec, HookStatus, Process, hook_state};
use podd_sys::namespace::{Kind, enter, unshare_own};
use podd_sys::resolve::{Leaf, ensure_in_root};
use podd_sys::{capability, exec};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fstat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::thread::UnshareFlags;

use super::privileges::{self, Privileges};
use super::program::Program;
use super::terminal::{self, Terminal};
use super::{Channel, Report, Stdio, device, hooks, masks, mounts, rootfs, user};
use crate::fault::{Outcome, Stage, refuse};
use crate::users::{Needed, Users};
use podd_shim::wire::ShimErrorKind;

/// The pod's namespaces that the container joins; none means that the host's stays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inside<'a> {
    pub(crate) net: Option<BorrowedFd<'a>>,
    pub(crate) ipc: Option<BorrowedFd<'a>>,
    pub(crate) uts: Option<BorrowedFd<'a>>,
}

/// A process that waits for its start.
pub(super) struct Prepared {
    pub(super) program: Program,
    pub(super) ready: Report,
    pub(super) master: Option<OwnedFd>,
}

/// The child's life. It was born in a mount namespace (and perhaps a PID namespace) of its own.
pub(crate) fn run(spec: &ContainerSpec, inside: &Inside<'_>, users: Needed, stdio: Stdio, channel: Channel) -> ! {
    let outcome = enter_namespaces(inside).and_then(|()| settle(stdio, channel, users));
    let (channel, users) = outcome.unwrap_or_else(|_| podd_sys::fork::exit_now(1));
    let outcome = set_up(spec, &users, &channel).and_then(|prepared| wait_run_hooks_and_exec(spec, prepared, &channel));
    channel.finish(outcome)
}

fn wait_run_hooks_and_exec(spec: &ContainerSpec, prepared: Prepared, channel: &Channel) -> Outcome<Infallible> {
    let program = wait(prepared, channel)?;
    run_hooks(spec, "startContainer", HookStatus::Created)?;
    program.exec()
}

/// Runs the hooks of a stage, which are told this process' id as they see it.
fn run_hooks(spec: &ContainerSpec, stage: &str, status: HookStatus) -> Outcome<()> {
    let inside = &spec.hooks;
    let hooks = if status == HookStatus::Creating { &inside.create_container } else { &inside.start_container };
    if hooks.is_empty() {
        return Ok(());
    }
    let state = hook_state(&spec.id, status, Some(std::process::id()), &inside.bundle, &inside.annotations);
    hooks::run(stage, hooks, &state)
}

/// Waits for the start, then becomes the program.
pub(super) fn wait_and_exec(prepared: Prepared, channel: &Channel) -> Outcome<Infallible> {
    wait(prepared, channel)?.exec()
}

fn wait(prepared: Prepared, channel: &Channel) -> Outcome<Program> {
    let Prepared { program, ready, master } = prepared;
    channel.report_and_wait(&ready, master.as_ref().map(AsFd::as_fd))?;
    Ok(program)
}

fn enter_namespaces(inside: &Inside<'_>) -> Outcome<()> {
    for (namespace, kind) in [(inside.net, Kind::Net), (inside.ipc, Kind::Ipc), (inside.uts, Kind::Uts)] {
        if let Some(namespace) = namespace {
            enter(namespace, kind).stage("enter namespace")?;
        }
    }
    Ok(())
}

/// Leaves everything of the shim behind: its descriptors, its session, its signal mask. What is open afterwards are the
/// standard descriptors, the channel, as number 3, and the user namespaces.
pub(super) fn settle(stdio: Stdio, channel: Channel, mut users: Needed) -> Outcome<(Channel, Needed)> {
    const CHANNEL: i32 = 3;
    let last = CHANNEL + i32::try_from(users.list.len()).map_err(io::Error::other).stage("count user namespaces")?;
    for users in &mut users.list {
        // Out of the way of what is placed.
        let copy = fcntl_dupfd_cloexec(&users.namespace, last + 1).stage("keep user namespace")?;
        std::mem::forget(std::mem::replace(&mut users.namespace, copy));
    }
    if let Stdio::Files(files) = stdio {
        for (number, file) in (0..).zip(&files) {
            if let Some(file) = file {
                exec::place(file, number).stage("place standard descriptors")?;
            }
        }
        // Not dropped: the numbers are about to be closed or reused wholesale.
        std::mem::forget(files);
    }
    exec::place(&channel.0, CHANNEL).stage("place channel")?;
    std::mem::forget(channel);
    for (number, users) in (CHANNEL + 1..).zip(&users.list) {
        exec::place(&users.namespace, number).stage("place user namespace")?;
    }
    exec::close_from(last + 1).stage("close descriptors")?;
    let channel = Channel::new(exec::adopt(CHANNEL).stage("adopt channel")?);
    for (number, users) in (CHANNEL + 1..).zip(&mut users.list) {
        let placed = exec::adopt(number).stage("adopt user namespace")?;
        // Closed above.
        std::mem::forget(std::mem::replace(&mut users.namespace, placed));
    }
    rustix::process::setsid().stage("start session")?;
    podd_sys::signal::reset().stage("reset signals")?;
    Ok((channel, users))
}

fn set_up(spec: &ContainerSpec, users: &Needed, channel: &Channel) -> Outcome<Prepared> {
    let mut warnings = Vec::new();
    let process = &spec.process;
    if let Some(value) = process.oom_score_adj {
        privileges::adjust_oom_score(value, &mut warnings)?;
    }
    join_cgroups(&spec.cgroup.join)?;
    if !spec.namespaces.host_cgroup {
        unshare_own(UnshareFlags::NEWCGROUP).stage("make cgroup namespace")?;
    }
    rustix::process::umask(Mode::empty());
    let mut plan = mounts::plan(spec, users)?;
    podd_sys::mount::make_all_private().stage("make mounts private")?;
    if let Some(users) = users.own() {
        rootfs::show_as(&spec.rootfs, plan.layers(), users)?;
    }
    plan.open_images()?;
    let root = rootfs::mount(&spec.rootfs, plan.destinations())?;
    if let Some(users) = users.own() {
        users.own_files()?;
    }
    plan.apply(root.as_fd())?;
    device::create(root.as_fd(), &spec.devices)?;
    let terminal = spec.tty.then(|| terminal::open(root.as_fd(), spec.window)).transpose()?;
    if let Some(terminal) = &terminal {
        terminal.show_as_console(root.as_fd())?;
    }
    if spec.hooks.pause {
        channel.report_and_wait(&Report::Paused, None)?;
    }
    run_hooks(spec, "createContainer", HookStatus::Creating)?;
    masks::make_readonly(root.as_fd(), &spec.readonly_paths)?;
    masks::hide(root.as_fd(), &spec.masked_paths)?;
    if spec.rootfs.readonly {
        rootfs::make_readonly(&root)?;
    }
    rootfs::pivot(&root)?;
    let home = Home { users: users.own(), own_mounts: true };
    prepare(process, &root, &home, terminal, warnings)
}

/// The user namespace that a process goes to last, since it leaves its rights over the host behind.
pub(super) struct Home<'a> {
    /// None for the host's.
    pub(super) users: Option<&'a Users>,
    /// Its mounts are to belong to that namespace, too: those that are there can't be taken away in it.
    pub(super) own_mounts: bool,
}

impl Home<'_> {
    fn enter(&self) -> Outcome<()> {
        let Some(users) = self.users else { return Ok(()) };
        users.enter()?;
        if self.own_mounts {
            unshare_own(UnshareFlags::NEWNS).stage("make mount namespace")?;
        }
        Ok(())
    }
}

/// What a container's first process and an exec have in common: from inside the root to the point of exec.
pub(super) fn prepare(
    process: &Process,
    root: &OwnedFd,
    home: &Home<'_>,
    terminal: Option<Terminal>,
    mut warnings: Vec<String>,
) -> Outcome<Prepared> {
    let user = user::resolve(root.as_fd(), &process.user)?;
    enter_working_directory(root.as_fd(), &process.cwd)?;
    privileges::apply_limits(process, &mut warnings)?;
    if let Some(terminal) = &terminal {
        terminal.take()?;
    }
    let (owner, _) = match home.users {
        Some(users) => users.outside(user.ids.uid, user.ids.gid)?,
        None => (user.ids.uid, user.ids.gid),
    };
    give_standard_descriptors(owner)?;
    home.enter()?;
    let available = capability::bounding().stage("read capabilities")?;
    let privileges = Privileges::plan(&process.capabilities, available);
    let program = Program::prepare(process, &user.home, privileges)?;
    privileges.drop_to(&user.ids)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask.unwrap_or(0o022)));
    let ready = Report::Ready { user: user.ids, warnings };
    Ok(Prepared { program, ready, master: terminal.map(|terminal| terminal.master) })
}

/// Writing "0" moves the writer itself, which a single-threaded process can do without the grace period that moving
/// another one costs.
pub(crate) fn join_cgroups(files: &[PathBuf]) -> Outcome<()> {
    for path in files {
        let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        std::fs::File::from(file.on("open cgroup", path)?).write_all(b"0").on("join cgroup", path)?;
    }
    Ok(())
}

/// The directory is resolved inside the root and made when missing; afterwards the kernel is asked where we are, so that
/// no trick with descriptors can leave us outside.
fn enter_working_directory(root: BorrowedFd<'_>, cwd: &Path) -> Outcome<()> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    let directory = ensure_in_root(root, cwd, Leaf::Directory).on("make working directory", cwd)?;
    rustix::process::fchdir(&directory).on("enter working directory", cwd)?;
    let here = rustix::process::getcwd(Vec::new()).on("find working directory", cwd)?;
    // "(unreachable)…" is how the kernel names a directory outside the root.
    if !here.to_bytes().starts_with(b"/") {
        let message = format!("{} lies outside the root file system", cwd.display());
        return Err(refuse(ShimErrorKind::Invalid, "enter working directory", message));
    }
    Ok(())
}

/// Pipes and terminals belong to the user, who may open `/dev/stdout` anew.
fn give_standard_descriptors(owner: u32) -> Outcome<()> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let stat = fstat(fd).stage("inspect standard descriptors")?;
        let terminal = rustix::termios::isatty(fd);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo || terminal {
            let unchanged: Option<Gid> = None;
            fchown(fd, Some(Uid::from_raw(owner)), unchanged).stage("give standard descriptors")?;
        }
    }
    Ok(())
}
