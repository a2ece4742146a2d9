//! The very last steps: the filter, the capabilities, exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::path::Path;

use podd_shim::wire::{Process, Seccomp, ShimError, ShimErrorKind};
use podd_sys::seccomp::{Instruction, default_profile, install};
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat};
use rustix::io::Errno;

use super::privileges::Privileges;
use crate::fault::{Outcome, Stage, refuse, system};

/// Where a process says which AppArmor profile its next exec takes on; the second is what kernels before 5.8 have.
const APPARMOR: [&str; 2] = ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"];

/// A program ready to be exec'd: everything that can be prepared before the filter is.
pub(super) struct Program {
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    filter: Option<(Vec<Instruction>, u32)>,
    apparmor: Option<String>,
    no_new_privileges: bool,
    privileges: Privileges,
}

impl Program {
    /// Prepares a process; `home` is used when the environment names none.
    pub(super) fn prepare(process: &Process, home: &str, privileges: Privileges) -> Outcome<Self> {
        let name = process.args.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| refuse(ShimErrorKind::Invalid, "exec", "no program given"))?;
        let mut env = process.env.clone();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={home}"));
        }
        let filter = match &process.seccomp {
            Seccomp::Unconfined => None,
            Seccomp::RuntimeDefault => Some((default_profile(privileges.bounding()), 0)),
            Seccomp::Filter { program, flags } => Some((parse_filter(program)?, *flags)),
        };
        Ok(Self {
            candidates: strings(&candidates(name, &env))?,
            args: strings(&process.args)?,
            env: strings(&env)?,
            filter,
            apparmor: process.apparmor.clone(),
            no_new_privileges: process.no_new_privileges,
            privileges,
        })
    }

    /// Becomes the program.
    pub(super) fn exec(&self) -> Outcome<Infallible> {
        if let Some(profile) = &self.apparmor {
            confine(profile)?;
        }
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).stage("set no_new_privs")?;
            self.privileges.settle()?;
            self.install_filter()?;
        } else {
            // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the capabilities go.
            self.install_filter()?;
            self.privileges.settle()?;
        }
        let mut refused = None;
        for candidate in &self.candidates {
            let Err(error) = podd_sys::exec::execve(candidate, &self.args, &self.env);
            match Errno::from_io_error(&error) {
                // As execvp(3): go on with the next directory, but remember that one held the file.
                Some(Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::STALE | Errno::TIMEDOUT) => {}
                Some(Errno::ACCESS) => refused = Some((candidate, error)),
                _ => return Err(exec_error(candidate, &error)),
            }
        }
        match refused {
            Some((candidate, error)) => Err(exec_error(candidate, &error)),
            None => Err(exec_error(&self.args[0], &io::Error::from(Errno::NOENT))),
        }
    }

    fn install_filter(&self) -> Outcome<()> {
        match &self.filter {
            Some((program, flags)) => install(program, *flags).stage("install seccomp filter"),
            None => Ok(()),
        }
    }
}

/// Has the next exec take on an AppArmor profile.
fn confine(profile: &str) -> Outcome<()> {
    let stage = "apply AppArmor profile";
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let opened = APPARMOR.iter().map(|path| openat(CWD, *path, flags, Mode::empty()));
    let file = opened.reduce(Result::or).expect("there are two").on(stage, Path::new(APPARMOR[0]))?;
    // What is mounted over /proc would take the name, and confine nothing.
    if fstatfs(&file).stage(stage)?.f_type != PROC_SUPER_MAGIC {
        return Err(refuse(ShimErrorKind::Invalid, stage, "something else is mounted over /proc"));
    }
    let wish = format!("exec {profile}");
    // The kernel takes the whole name in one call, or none of it.
    rustix::io::write(&file, wish.as_bytes()).on(stage, Path::new(profile)).map(|_whole| ())
}

fn exec_error(path: &CString, error: &io::Error) -> ShimError {
    let path = Path::new(std::ffi::OsStr::new(path.to_str().unwrap_or_default()));
    let kind = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => ShimErrorKind::ExecNotFound,
        Some(Errno::ACCESS | Errno::PERM) => ShimErrorKind::ExecPermission,
        _ => ShimErrorKind::System,
    };
    ShimError { kind, ..system("exec", Some(path), error) }
}

/// The exit code of a process that could not be started: a shell's 127 and 126, Kubernetes' 128 for the rest.
pub(crate) fn exit_code(error: &ShimError) -> i32 {
    match error.kind {
        ShimErrorKind::ExecNotFound => 127,
        ShimErrorKind::ExecPermission => 126,
        _ => 128,
    }
}

/// The paths to try: the name itself when it has a slash, else the name in each directory of `PATH`.
fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let directory = |directory: &str| if directory.is_empty() { ".".to_owned() } else { directory.to_owned() };
    path.split(':').filter(|_| !path.is_empty()).map(|entry| format!("{}/{name}", directory(entry))).collect()
}

fn strings(values: &[String]) -> Outcome<Vec<CString>> {
    let string = |value: &String| {
        CString::new(value.as_str())
            .map_err(|_| refuse(ShimErrorKind::Invalid, "prepare exec", "an argument or variable holds a zero byte"))
    };
    values.iter().map(string).collect()
}

/// Sixteen hexadecimal digits for each instruction.
fn parse_filter(text: &str) -> Outcome<Vec<Instruction>> {
    let invalid = || refuse(ShimErrorKind::Invalid, "read seccomp filter", "not whole instructions in hexadecimal");
    let (chunks, rest) = text.as_bytes().as_chunks::<16>();
    if !rest.is_empty() || chunks.is_empty() {
        return Err(invalid());
    }
    let instruction = |digits: &[u8; 16]| {
        let text = std::str::from_utf8(digits).ok()?;
        Some(Instruction::from_bytes(u64::from_str_radix(text, 16).ok()?.to_be_bytes()))
    };
    chunks.iter().map(|digits| instruction(digits).ok_or_else(invalid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_up_in_the_containers_own_path() {
        let env = ["A=b".to_owned(), "PATH=/bin::/usr/bin".to_owned()];
        assert_eq!(candidates("ls", &env), ["/bin/ls", "./ls", "/usr/bin/ls"]);
        assert_eq!(candidates("./ls", &env), ["./ls"]);
        assert!(candidates("ls", &[]).is_empty());
    }

    #[test]
    fn a_filter_survives_its_digits() {
        let program = default_profile(0);
        let text: String = program.iter().flat_map(|i| i.to_bytes()).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(parse_filter(&text).unwrap(), program);
        for bad in ["", "00", "zz00000000000000", "0000000000000000ff"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
