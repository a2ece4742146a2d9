//! CRIU as a program: where it is, what it is told about a container, and what it says when it cannot.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{major, minor};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;

use crate::error::{Context, CriError, Result, excerpt};

/// Within the checkpoint's directory: what CRIU writes of the processes, its log, its figures.
pub(super) const IMAGES: &str = "images";
pub(super) const LOG: &str = "dump.log";
pub(super) const STATS: &str = "stats-dump";
/// The copy of the writable layer, and the script that makes it.
pub(super) const UPPER: &str = "upper";
const SCRIPT: &str = "copy-layer";
/// CRIU runs its action script at many points. At this one all is written and the processes still stand still, so that
/// files and memory belong together. The cgroup's freezer would do it too, but a container whose runtime is killed at
/// that moment would stay frozen; this way CRIU lets it go on whoever is left.
const COPY_LAYER: &str = "#!/bin/sh
[ \"$CRTOOLS_SCRIPT_ACTION\" = post-dump ] || exit 0
exec cp -a -- \"$PODD_UPPER\" \"$PODD_COPY\"
";
/// How much of what CRIU writes to its standard error is kept.
const LONGEST_SAYING: u64 = 4096;
/// How many of its log's errors are passed on: the last ones, of which the first is the cause.
const ERRORS: usize = 3;
/// The numbers of `/dev/null` (null(4)).
const NULL: (u32, u32) = (1, 3);

/// Whom to write down, and where.
pub(super) struct Target {
    pub(super) pid: u32,
    pub(super) upper: PathBuf,
    /// The checkpoint's own directory.
    pub(super) directory: PathBuf,
}

/// What CRIU is started with.
#[derive(Debug)]
pub(super) struct Plan {
    arguments: Vec<OsString>,
    upper: PathBuf,
    directory: PathBuf,
}

/// Finds the program: a path as it is, a name as execvp(3) would.
pub(super) fn find(program: &Path, path: &OsStr) -> Result<PathBuf> {
    crate::program::find(program, path).ok_or_else(|| {
        CriError::Precondition(match program.is_absolute() {
            true => format!("a checkpoint needs CRIU, and {} cannot be run", program.display()),
            false => format!("a checkpoint needs CRIU, and there is no program {program:?} in PATH {path:?}"),
        })
    })
}

/// Looks at the container's processes, and says what CRIU has to know.
pub(super) fn plan(target: &Target, patience: Duration) -> Result<Plan> {
    let process = PathBuf::from(format!("/proc/{}", target.pid));
    let what = || format!("look at {}", process.display());
    let table = fs::read(process.join("mountinfo")).context(what)?;
    let mut external: Vec<OsString> = mount_points(&table).into_iter().map(external_mount).collect();
    let network = fs::metadata(process.join("ns/net")).context(what)?.ino();
    if network != fs::metadata("/proc/self/ns/net").context(what)?.ino() {
        // The pod's, not the container's: who restores brings one along.
        external.push(format!("net[{network}]:pod-network").into());
    }
    external.extend(foreign_nulls(&process, &table).context(what)?);

    let script = target.directory.join(SCRIPT);
    fs::write(&script, COPY_LAYER).context(|| format!("write {}", script.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).context(|| "make the script executable")?;
    let arguments = arguments(target.pid, &target.directory, &process.join("root"), patience, external);
    Ok(Plan { arguments, upper: target.upper.clone(), directory: target.directory.clone() })
}

fn arguments(pid: u32, directory: &Path, root: &Path, patience: Duration, external: Vec<OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["dump", "--leave-running", "--tcp-established", "--shell-job"]
        .into_iter()
        .chain(["--ext-unix-sk", "--file-locks", "--link-remap", "--manage-cgroups=ignore", "-v4"])
        .map(OsString::from)
        .collect();
    let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    option("--tree", pid.to_string().into());
    option("--images-dir", directory.join(IMAGES).into());
    option("--work-dir", directory.into());
    option("--log-file", LOG.into());
    option("--root", root.into());
    // Its own limit is for how long the processes take to come to a stand.
    option("--timeout", patience.as_secs().max(1).to_string().into());
    option("--action-script", directory.join(SCRIPT).into());
    external.into_iter().for_each(|value| option("--external", value));
    arguments
}

/// Runs CRIU to its end. Dropped before that, it is killed with all that it has started; the kernel lets the processes
/// go that it held, and what it has put into them lets go of them when its socket closes.
pub(super) async fn dump(program: &Path, plan: &Plan) -> std::result::Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(&plan.arguments).current_dir("/").process_group(0).kill_on_drop(true);
    command.env("PODD_UPPER", &plan.upper).env("PODD_COPY", plan.directory.join(UPPER));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw));
    let mut said = Vec::new();
    if let Some(mut output) = child.stderr.take() {
        let _as_far_as_it_came = (&mut output).take(LONGEST_SAYING).read_to_end(&mut said).await;
        let _dropped = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    group.ended();
    if status.success() {
        return Ok(());
    }
    let log = fs::read(plan.directory.join(LOG)).unwrap_or_default();
    let words = errors(&String::from_utf8_lossy(&log)).or_else(|| errors(&String::from_utf8_lossy(&said)));
    let words = words.unwrap_or_else(|| String::from_utf8_lossy(&said).trim().to_owned());
    Err(if words.is_empty() { status.to_string() } else { format!("{status}: {words}") })
}

/// A process group that is killed when nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    /// Its leader was reaped: the number may be another's from now on.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The errors of a log, without their times: the last few of them.
fn errors(log: &str) -> Option<String> {
    let found: Vec<&str> = log.lines().filter_map(|line| line.find("Error (").map(|at| &line[at..])).collect();
    let last = &found[found.len().saturating_sub(ERRORS)..];
    (!last.is_empty()).then(|| last.join("; "))
}

/// The mount points of a mount table but the root, each once (proc_pid_mountinfo(5)).
fn mount_points(table: &[u8]) -> BTreeSet<Vec<u8>> {
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescape).filter(|point| point != b"/").collect()
}

/// Each is told as somebody else's, by its own name: volumes are the pod's, and the rest is made anew for a container.
fn external_mount(point: Vec<u8>) -> OsString {
    OsString::from_vec([b"mnt[", &point[..], b"]:", &point[..]].concat())
}

/// Undoes the kernel's `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// Standard streams that are the host's `/dev/null`: they were opened before there was a root to look in, and CRIU does
/// not know their mount.
fn foreign_nulls(process: &Path, table: &[u8]) -> io::Result<BTreeSet<OsString>> {
    let mounts: BTreeSet<&[u8]> =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').next()).collect();
    let mut found = BTreeSet::new();
    for fd in ["0", "1", "2"] {
        // A program may have closed it.
        let Ok(file) = fs::metadata(process.join("fd").join(fd)) else { continue };
        if !file.file_type().is_char_device() || (major(file.rdev()), minor(file.rdev())) != NULL {
            continue;
        }
        let said = fs::read_to_string(process.join("fdinfo").join(fd))?;
        let mount = said.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim).unwrap_or_default();
        if !mounts.contains(mount.as_bytes()) {
            let number: u64 = mount.parse().map_err(|_| io::Error::other(format!("mount {}", excerpt(mount))))?;
            found.insert(format!("file[{number:x}:{:x}]", file.ino()).into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
