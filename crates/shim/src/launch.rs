//! Runs of another OCI runtime's program, and what they leave behind: a process, perhaps its terminal, or words why not.
//!
//! The program ends and its process goes on, as a child of the shim: the shim is the subreaper of all that descends from it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use podd_shim::wire::{Command, ShimError, ShimErrorKind};
use podd_sys::socket::receive_with_fds;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitStatus, pidfd_open, waitid};
use serde::Deserialize;

use crate::child;
use crate::fault::{Outcome, Stage, refuse};
use crate::process::{Cradle, Process, words};

/// How much of what a program says is passed on.
const LONGEST_SAYING: usize = 2048;
/// How much of a log is looked at, from its end.
const LOG_END: u64 = 16 << 10;
/// A process id and some white space.
const LONGEST_PID: u64 = 32;

/// Runs a program: the standard descriptors that are not given are `/dev/null`.
pub(crate) fn run(command: &Command, oom_score_adj: Option<i32>, files: &[Option<OwnedFd>; 3]) -> Outcome<Process> {
    Process::fork(&Cradle::default(), || child::run_program(command, oom_score_adj, files)).stage("fork")
}

/// A pipe for a program's standard error: the end that is read, which does not block, and the program's.
pub(crate) fn errors() -> Outcome<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).stage("make pipe")?;
    fcntl_setfl(&read, OFlags::NONBLOCK).stage("make pipe")?;
    Ok((read, write))
}

/// The socket over which a program sends a terminal. Nobody waits for it: what was sent is there once the program has ended.
#[derive(Debug)]
pub(crate) struct Console {
    listener: OwnedFd,
    path: PathBuf,
}

impl Console {
    pub(crate) fn listen(path: &Path) -> Outcome<Self> {
        const STAGE: &str = "listen for a terminal";
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).stage(STAGE)?;
        bind(&listener, &SocketAddrUnix::new(path).on(STAGE, path)?).on(STAGE, path)?;
        let console = Self { listener, path: path.to_owned() };
        listen(&console.listener, 1).on(STAGE, path)?;
        Ok(console)
    }

    /// The terminal's master.
    pub(crate) fn terminal(&self) -> Outcome<OwnedFd> {
        const STAGE: &str = "receive the terminal";
        let connection = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).stage(STAGE)?;
        let mut fds = Vec::new();
        // A name comes along that nobody needs.
        receive_with_fds(connection.as_fd(), &mut [0; 512], &mut fds).stage(STAGE)?;
        fds.pop().ok_or_else(|| refuse(ShimErrorKind::System, STAGE, "no descriptor came along"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // The runtime removes its directory.
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// The id that a program has written down.
pub(crate) fn read_pid(file: &Path) -> Outcome<u32> {
    const STAGE: &str = "read the process id";
    let mut text = String::new();
    File::open(file).on(STAGE, file)?.take(LONGEST_PID).read_to_string(&mut text).on(STAGE, file)?;
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| {
        refuse(ShimErrorKind::System, STAGE, format!("{} does not say one: {:?}", file.display(), text.trim()))
    })
}

/// Takes on a process that a program has left behind; one that is a child of this process and has not been reaped.
pub(crate) fn adopt(pid: u32) -> Outcome<Process> {
    const STAGE: &str = "take on the process";
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| refuse(ShimErrorKind::System, STAGE, format!("{pid} is no process id")))?;
    let asked = waitid(WaitId::Pid(raw), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
    match asked {
        // Not reaped, so the number is its own.
        Ok(_) => Ok(Process { pid, pidfd: pidfd_open(raw, PidfdFlags::empty()).stage(STAGE)? }),
        Err(rustix::io::Errno::CHILD) => {
            Err(refuse(ShimErrorKind::System, STAGE, format!("{pid} has ended, or is no child of the shim")))
        }
        Err(error) => Err(error).stage(STAGE),
    }
}

/// Why a program has failed, in its own words where there are any: of its log, else of its standard error.
pub(crate) fn failure(stage: &str, command: &Command, status: WaitStatus, errors: Option<&OwnedFd>) -> ShimError {
    let program = command.args.first().map_or("", String::as_str);
    let said = last_error(&command.log).or_else(|| errors.and_then(first_words));
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    refuse(ShimErrorKind::System, stage, format!("{program}: {}{said}", words(status)))
}

/// One line of a program's log.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    msg: String,
}

/// The last error of a log, else its last message.
fn last_error(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_END).read_to_end(&mut bytes).ok()?;
    let lines: Vec<Line> = bytes.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    let error = lines.iter().rfind(|line| line.level == "error" || line.level == "fatal");
    error.or(lines.last()).and_then(|line| bounded(line.msg.as_bytes()))
}

/// The beginning of what is in a pipe that does not block.
fn first_words(pipe: &OwnedFd) -> Option<String> {
    let flags = fcntl_getfl(pipe).ok()?;
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).ok()?;
    let mut bytes = vec![0; LONGEST_SAYING];
    let mut length = 0;
    loop {
        match rustix::io::read(pipe, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    bounded(&bytes[..length])
}

fn bounded(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_SAYING)]).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Ends of processes that nobody knew, while a program may still say that one was its own.
#[derive(Debug, Default)]
pub(crate) struct Strays(Vec<(u32, WaitStatus)>);

/// How many ends are kept. A process that ends before its program does is a short one, and among the last.
const MOST_STRAYS: usize = 256;

impl Strays {
    pub(crate) fn add(&mut self, pid: u32, status: WaitStatus) {
        if self.0.len() >= MOST_STRAYS {
            self.0.remove(0);
        }
        self.0.push((pid, status));
    }

    /// The last end of a process with this number.
    pub(crate) fn take(&mut self, pid: u32) -> Option<WaitStatus> {
        let at = self.0.iter().rposition(|(number, _)| *number == pid)?;
        Some(self.0.remove(at).1)
    }

    /// Nobody is waited for any more.
    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::WaitOptions;

    use super::*;

    #[test]
    fn the_reason_of_a_failure_is_the_last_error_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for (text, expected) in [
            ("", None),
            ("no json\n", None),
            ("{\"level\":\"warning\",\"msg\":\"a\"}\n", Some("a")),
            ("{\"level\":\"error\",\"msg\":\"b\"}\n{\"level\":\"warning\",\"msg\":\"a\"}\n", Some("b")),
            ("{\"level\":\"error\",\"msg\":\"b\"}\n{\"level\":\"error\",\"msg\":\" c \",\"time\":1}\n", Some("c")),
        ] {
            std::fs::write(&log, text).unwrap();
            assert_eq!(last_error(&log).as_deref(), expected, "{text}");
        }
        assert_eq!(last_error(&directory.path().join("none")), None);
    }

    #[test]
    fn a_program_without_a_log_is_heard_by_its_standard_error_up_to_a_bound() {
        let (read, write) = errors().unwrap();
        assert_eq!(first_words(&read), None);
        rustix::io::write(&write, &[b'x'; 3 * LONGEST_SAYING]).unwrap();
        assert_eq!(first_words(&read).map(|text| text.len()), Some(LONGEST_SAYING));
    }

    #[test]
    fn only_a_child_is_taken_on() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(adopt(child.id()).unwrap().pid, child.id());
        assert!(adopt(1).is_err(), "somebody else's");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(adopt(child.id()).is_err(), "reaped");
    }

    #[test]
    fn a_pid_file_says_a_pid() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        for (text, expected) in [("12", Some(12)), ("12\n", Some(12)), ("", None), ("0", None), ("-1", None)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_pid(&file).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_stray_is_found_once_and_the_last_of_a_number_counts() {
        let status = |code: i32| {
            let mut child = std::process::Command::new("sh").args(["-c", &format!("exit {code}")]).spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let status = rustix::process::waitpid(pid, WaitOptions::empty()).unwrap().unwrap().1;
            assert!(child.wait().is_err(), "reaped above");
            status
        };
        let clean = status(0);
        let mut strays = Strays::default();
        strays.add(7, status(1));
        strays.add(7, status(2));
        assert_eq!(strays.take(7).and_then(WaitStatus::exit_status), Some(2));
        assert!(strays.take(8).is_none());
        for pid in 100..100 + MOST_STRAYS as u32 {
            strays.add(pid, clean);
        }
        assert!(strays.take(7).is_none(), "the oldest goes");
    }
}
