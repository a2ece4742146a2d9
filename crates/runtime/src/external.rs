//! Other OCI runtimes: runtime handlers that are a program with the command line of runc.
//!
//! ```text
//!  Create ─► shim: child mounts the root and the volumes in a mount namespace of its own, resolves the user
//!         ◄─ Mounted
//!  config.json
//!  Proceed ─► shim: the child becomes `PROGRAM create`, which ends and leaves the container's first process to the shim
//!  Start  ─► shim: `PROGRAM start`
//!  Exec   ─► shim: `PROGRAM exec --detach`, which leaves its process to the shim in the same way
//!  the end ─► here: `PROGRAM delete --force`
//! ```
//!
//! Everything else is as with podd's own containers: the shim has the streams and the exit, the control group is the one that
//! podd makes, and signals, statistics and limits go there. Hooks are that runtime's, by its configuration.

pub(crate) mod config;
pub(crate) mod groups;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use podd_shim::wire::{Command, Hook, Launch};
use serde::{Deserialize, Serialize};

use crate::config::Handler;
use crate::error::{CriError, Result};
use crate::hooks;
use crate::paths::{ContainerPaths, Paths};
use crate::program;
use crate::sandbox::plan::HANDLER;

/// The first version of the shims' protocol that knows other runtimes.
const SINCE: u32 = 3;
/// How long the program may take to delete a container, in seconds.
const DELETE_PATIENCE: u32 = 30;

/// The program that has made a container: that one, and none that the handler is now, knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The runtime handler.
    pub(crate) handler: String,
    /// An absolute path.
    pub(crate) path: PathBuf,
}

/// The program of a runtime handler; none for podd's own.
pub(crate) fn find(handlers: &BTreeMap<String, Handler>, handler: &str) -> Result<Option<Program>> {
    let Some(Handler::Program(program)) = handlers.get(handler) else { return Ok(None) };
    match program::find(program, &search_path()) {
        Some(path) => Ok(Some(Program { handler: handler.to_owned(), path })),
        None => Err(CriError::Precondition(missing(handler, program))),
    }
}

/// Whether another runtime may have made containers under this name: it is not, or no longer, one of podd's own.
pub(crate) fn is_foreign(handlers: &BTreeMap<String, Handler>, handler: &str) -> bool {
    !["", HANDLER].contains(&handler) && handlers.get(handler) != Some(&Handler::Embedded)
}

/// What is wrong with handlers whose programs are not there; for a start to tell.
pub(crate) fn missing_programs(handlers: &BTreeMap<String, Handler>) -> Vec<String> {
    handlers.keys().filter_map(|handler| find(handlers, handler).err()).map(|error| error.to_string()).collect()
}

fn missing(handler: &str, program: &Path) -> String {
    let place = if program.is_absolute() { String::new() } else { format!(" in PATH {:?}", search_path()) };
    format!(
        "runtime handler {handler:?}: there is no program {}{place}; install it, or correct runtime.handlers.{handler}.path",
        program.display()
    )
}

fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Refuses to hand such a container to a shim that would make it itself: one that an older podd has started.
pub(crate) fn verify_shim(program: &Program, version: u32) -> Result<()> {
    match version {
        SINCE.. => Ok(()),
        _ => Err(CriError::Precondition(format!(
            "runtime handler {:?}: the sandbox was made by an older podd that runs no program; make it anew",
            program.handler
        ))),
    }
}

/// What the program is run with for one container.
pub(crate) struct Commands<'a> {
    program: &'a Program,
    paths: &'a Paths,
    /// Of the container.
    id: &'a str,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(program: &'a Program, paths: &'a Paths, id: &'a str) -> Self {
        Self { program, paths, id }
    }

    /// Where the program keeps what it knows of its containers.
    pub(crate) fn state(&self) -> PathBuf {
        self.paths.oci(&self.program.handler)
    }

    pub(crate) fn create(&self, bundle: &ContainerPaths, tty: bool) -> Launch {
        let files = Files::of(self.paths, self.id);
        let mut rest = vec!["--bundle".to_owned(), text(&bundle.directory), "--pid-file".to_owned(), text(&files.pid)];
        let console = self.console(&files, tty, &mut rest);
        Launch { command: self.command("create", rest, &files), pid_file: files.pid, console }
    }

    pub(crate) fn start(&self) -> Command {
        self.command("start", Vec::new(), &Files::of(self.paths, self.id))
    }

    /// `files` are those of the exec.
    pub(crate) fn exec(&self, files: &Files, tty: bool) -> Launch {
        let mut rest = vec!["--process".to_owned(), text(&files.process), "--pid-file".to_owned(), text(&files.pid)];
        rest.push("--detach".to_owned());
        let console = self.console(files, tty, &mut rest);
        Launch { command: self.command("exec", rest, files), pid_file: files.pid.clone(), console }
    }

    fn console(&self, files: &Files, tty: bool, rest: &mut Vec<String>) -> Option<PathBuf> {
        let console = tty.then(|| files.console.clone());
        rest.extend(console.iter().flat_map(|path| ["--console-socket".to_owned(), text(path)]));
        console
    }

    fn command(&self, verb: &str, rest: Vec<String>, files: &Files) -> Command {
        let own = ["--root", &text(&self.state()), "--log", &text(&files.log), "--log-format", "json", verb];
        let args = std::iter::once(text(&self.program.path)).chain(own.map(str::to_owned));
        Command {
            args: args.chain(rest).chain([self.id.to_owned()]).collect(),
            env: environment(),
            log: files.log.clone(),
        }
    }

    /// Has the program forget the container and kill what is left of it; fine for one that it does not know.
    pub(crate) async fn delete(&self, directory: &Path) -> std::result::Result<(), String> {
        let args = ["--root", &text(&self.state()), "delete", "--force", self.id].map(str::to_owned);
        let path = self.program.path.clone();
        let hook = Hook {
            args: std::iter::once(text(&path)).chain(args).collect(),
            path,
            env: environment(),
            timeout: Some(DELETE_PATIENCE),
        };
        hooks::run_one(&hook, directory, "").await
    }
}

/// The files over which a program and podd talk about one process.
pub(crate) struct Files {
    pub(crate) process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
    console: PathBuf,
}

impl Files {
    /// By the id of a container or an exec.
    pub(crate) fn of(paths: &Paths, id: &str) -> Self {
        let file = |kind: &str| paths.io().join(format!("{id}.{kind}"));
        Self { process: file("json"), pid: file("pid"), log: file("log"), console: file("sock") }
    }

    /// Removes them, as far as they are there.
    pub(crate) fn remove(&self) {
        for file in [&self.process, &self.pid, &self.log, &self.console] {
            // Those that were never made.
            let _absent = std::fs::remove_file(file);
        }
    }
}

/// Programs look for others (`newuidmap`, `criu`, hooks).
fn environment() -> Vec<String> {
    vec![format!("PATH={}", search_path().to_string_lossy())]
}

/// podd's own paths are text: its configuration is.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handlers(program: &str) -> BTreeMap<String, Handler> {
        BTreeMap::from([
            ("plain".to_owned(), Handler::Embedded),
            ("other".to_owned(), Handler::Program(program.into())),
        ])
    }

    #[test]
    fn a_handler_is_podd_itself_or_a_program_that_is_there() {
        let found = |program: &str, handler: &str| find(&handlers(program), handler);
        assert_eq!(found("/bin/sh", "plain").unwrap(), None);
        assert_eq!(found("/bin/sh", "").unwrap(), None);
        assert_eq!(found("/bin/sh", "other").unwrap().unwrap().path, Path::new("/bin/sh"));
        assert!(found("sh", "other").unwrap().unwrap().path.is_absolute(), "a name is looked for");
        for (program, says) in [("/nowhere/runc", "no program /nowhere/runc;"), ("nosuchrunc", "nosuchrunc in PATH")] {
            let error = found(program, "other").unwrap_err();
            assert!(matches!(error, CriError::Precondition(_)));
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("runtime.handlers.other.path"), "{text}");
        }
        let foreign = |handler| is_foreign(&handlers("/bin/sh"), handler);
        assert_eq!(["", "podd", "plain", "other", "gone"].map(foreign), [false, false, false, true, true]);
        assert_eq!(missing_programs(&handlers("/nowhere/runc")).len(), 1);
        assert!(missing_programs(&handlers("/bin/sh")).is_empty());
    }

    #[test]
    fn a_program_is_run_with_runcs_command_line() {
        let (program, paths) = (
            Program { handler: "h".into(), path: "/sbin/runc".into() },
            Paths::new(Path::new("/root"), Path::new("/run")),
        );
        let commands = Commands::new(&program, &paths, "c");
        let own = "/sbin/runc --root /run/oci/h --log /run/io/c.log --log-format json";
        let create = commands.create(&paths.container("c"), false);
        let rest = "create --bundle /root/containers/c --pid-file /run/io/c.pid";
        assert_eq!(create.command.args.join(" "), format!("{own} {rest} c"));
        assert_eq!((create.pid_file, create.console), ("/run/io/c.pid".into(), None));
        let create = commands.create(&paths.container("c"), true);
        assert_eq!(create.command.args.join(" "), format!("{own} {rest} --console-socket /run/io/c.sock c"));
        assert_eq!(create.console, Some("/run/io/c.sock".into()));
        assert_eq!(commands.start().args.join(" "), format!("{own} start c"));
        let exec = commands.exec(&Files::of(&paths, "e"), true).command.args.join(" ");
        let own = own.replace("c.log", "e.log");
        let rest = "exec --process /run/io/e.json --pid-file /run/io/e.pid --detach --console-socket /run/io/e.sock";
        assert_eq!(exec, format!("{own} {rest} c"));
    }

    #[test]
    fn a_shim_that_would_make_the_container_itself_gets_none() {
        let program = Program { handler: "h".into(), path: "/sbin/runc".into() };
        assert!(verify_shim(&program, 2).is_err());
        assert!(verify_shim(&program, podd_shim::wire::VERSION).is_ok());
    }
}
