//! What a node is made of, kept by a process of its own, so that it goes however its test ends.
//!
//! ```text
//! test ──── stdin: a pipe that nothing else holds ───▶ podd-test-keeper (a process group of its own)
//!      ◀─── stdout: the holder's pid, the directory ──       │ makes the directory
//!                                                            └─▶ holder: sleeps in the node's namespaces
//! ```
//!
//! The pipe ends when the test lets go of it, or when the kernel does since the test was killed. Then everything of the
//! node goes: the processes in its namespaces and control groups, the groups, the directory. A runner that kills a test
//! kills its process group; the keeper is not in it. The keeper itself stays in the machine's mount namespace, where no
//! mount of a pod can be seen: removing the directory never leads anywhere else.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Where the machine's control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long the last process of a node may take to end, and a group to be empty.
const LONGEST_END: Duration = Duration::from_secs(20);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// What runs in a node's namespaces to keep them.
const HOLDER: &str = "/bin/busybox ip link set lo up && echo ready && exec /bin/busybox sleep 1000000";

/// The test's side: the node is there while this is.
pub(crate) struct Kept {
    keeper: Child,
    /// Closed, it ends the node.
    pipe: Option<ChildStdin>,
    pub(crate) holder: u32,
    pub(crate) directory: PathBuf,
}

impl Kept {
    /// Starts a keeper.
    ///
    /// # Panics
    /// When the machine does not allow a node.
    pub(crate) fn start(instance: &str) -> Self {
        let mut keeper = Command::new(crate::node::built("podd-test-keeper"))
            .arg(instance)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("podd-test-keeper runs");
        let mut lines = BufReader::new(keeper.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let holder = lines.next().and_then(|line| line.parse().ok());
        let (Some(holder), Some(directory)) = (holder, lines.next()) else {
            panic!("the namespaces of a node could not be made; the tests need root");
        };
        Self { pipe: keeper.stdin.take(), keeper, holder, directory: directory.into() }
    }

    /// Takes the node away; false when something would not go, which the keeper has told.
    pub(crate) fn end(&mut self) -> bool {
        drop(self.pipe.take());
        self.keeper.wait().is_ok_and(|status| status.success())
    }
}

/// The path of a node's control group, in every hierarchy.
pub(crate) fn cgroup(instance: &str) -> String {
    format!("/podd-test-{instance}")
}

/// The control groups of a node, in every hierarchy.
pub fn cgroups(instance: &str) -> Vec<PathBuf> {
    let own = cgroup(instance);
    let tops = fs::read_dir(CGROUPS).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let tops = tops.chain([PathBuf::from(CGROUPS)]);
    tops.map(|top| top.join(own.trim_start_matches('/'))).filter(|path| path.is_dir()).collect()
}

/// The keeper's side: makes the node, waits for the end of standard input, takes the node away.
///
/// # Errors
/// When the node cannot be made, or something of it is left.
pub fn run(instance: &str) -> io::Result<()> {
    let directory = tempfile::Builder::new().prefix("podd-test-").tempdir()?;
    let mut holder = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--", "/bin/busybox", "sh", "-c", HOLDER])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line)?;
    if line != "ready\n" {
        return Err(io::Error::other("the holder of the namespaces did not start"));
    }
    let node = Own::of(instance, holder.id())?;
    let told = writeln!(io::stdout(), "{}\n{}", holder.id(), directory.path().display());
    let _a_test_that_is_gone_has_let_go_of_the_pipe = told.and_then(|()| io::stdout().flush());
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;

    let ended = node.end_processes();
    let _the_last_of_them = holder.wait();
    let removed = cgroups(instance).iter().try_for_each(|top| remove_group(top));
    directory.close()?;
    ended.and(removed)
}

/// What tells a node's processes from the others.
struct Own {
    cgroup: String,
    /// Open, so that the numbers are not given to other namespaces.
    namespaces: [(&'static str, fs::File); 2],
}

impl Own {
    fn of(instance: &str, holder: u32) -> io::Result<Self> {
        let open = |kind| fs::File::open(format!("/proc/{holder}/ns/{kind}"));
        Ok(Self { cgroup: cgroup(instance), namespaces: [("net", open("net")?), ("mnt", open("mnt")?)] })
    }

    /// A process of the node that has not ended yet.
    fn has(&self, process: &Path) -> bool {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        if matches!(state, None | Some("Z" | "X")) {
            return false;
        }
        let in_namespace = self.namespaces.iter().any(|(kind, file)| {
            let numbers = (fs::metadata(process.join("ns").join(kind)), file.metadata());
            matches!(numbers, (Ok(theirs), Ok(ours)) if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
        });
        let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let mut groups = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        in_namespace
            || groups.any(|path| {
                path.strip_prefix(&self.cgroup).is_some_and(|rest| matches!(rest.get(..1), None | Some("/")))
            })
    }

    /// Kills until none is left: one that is killed may just have started another.
    fn end_processes(&self) -> io::Result<()> {
        let end = Instant::now() + LONGEST_END;
        loop {
            let mut left = Vec::new();
            for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
                let Some(pid) = pid(&entry.file_name()).filter(|_| self.has(&entry.path())) else { continue };
                left.push(pid.as_raw_nonzero());
                // The descriptor first: a number that was given to another process since must not be killed.
                let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                if self.has(&entry.path()) {
                    let _may_have_ended = pidfd_send_signal(&descriptor, Signal::KILL);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("processes of {} do not end: {left:?}", self.cgroup)));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn pid(name: &OsStr) -> Option<Pid> {
    name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
}

fn remove_group(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.path().is_dir() {
            remove_group(&entry.path())?;
        }
    }
    // The last process may still be on its way out.
    let end = Instant::now() + LONGEST_END;
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(PAUSE)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io::Error::new(error.kind(), format!("remove {}: {error}", group.display())));
            }
            _ => return Ok(()),
        }
    }
}
