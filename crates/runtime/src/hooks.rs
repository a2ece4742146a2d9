//! OCI hooks: which a container has, and those of them that run outside it (OCI runtime specification, config.md
//! "POSIX-platform Hooks").
//!
//! | stage | when | where | who runs it | a failure |
//! |---|---|---|---|---|
//! | `prestart`, `createRuntime` | all is mounted, the root not entered | host | this module | fails the creation |
//! | `createContainer` | after those | the container's namespaces, the host's files | the shim's child | fails the creation |
//! | `startContainer` | at the start, before the program | the container, as its user | the shim's child | fails the start |
//! | `poststart` | the program runs | host | this module | ends the container, fails the start |
//! | `poststop` | the container has ended, or could not be made | host | this module | is logged |
//!
//! Where a container has hooks they find a bundle: the container's directory, with `config.json` and `rootfs`.

mod bundle;
pub(crate) mod directory;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use podd_shim::wire::{Hook, HookStatus, hook_state};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{CriError, Result};

pub(crate) use bundle::write as write_bundle;

/// How long a hook may take that names no timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest timeout that is honoured; longer ones mean this.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// How much of what a hook writes is kept for the error.
const LONGEST_SAYING: u64 = 4096;
/// How long the output of a hook that has ended is read on.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// The hooks of a container, each list in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Hooks {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) prestart: Vec<Hook>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) create_runtime: Vec<Hook>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) create_container: Vec<Hook>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) start_container: Vec<Hook>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
}

impl Hooks {
    /// The names of the stages, in the order of a container's life.
    pub(crate) const STAGES: [&str; 6] =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

    /// The list of a stage by its name.
    pub(crate) fn stage(&mut self, name: &str) -> Option<&mut Vec<Hook>> {
        Some(match name {
            "prestart" => &mut self.prestart,
            "createRuntime" => &mut self.create_runtime,
            "createContainer" => &mut self.create_container,
            "startContainer" => &mut self.start_container,
            "poststart" => &mut self.poststart,
            "poststop" => &mut self.poststop,
            _ => return None,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds hooks behind those that are there.
    pub(crate) fn append(&mut self, mut more: Self) {
        for name in Self::STAGES {
            if let (Some(own), Some(more)) = (self.stage(name), more.stage(name)) {
                own.append(more);
            }
        }
    }
}

/// What the hooks of one container are told.
pub(crate) struct Told<'a> {
    pub(crate) id: &'a str,
    pub(crate) status: HookStatus,
    pub(crate) pid: Option<u32>,
    pub(crate) bundle: &'a Path,
    pub(crate) annotations: &'a BTreeMap<String, String>,
}

/// Runs the hooks of a stage on the host, one after the other; the first that fails ends it.
pub(crate) async fn run(stage: &str, hooks: &[Hook], told: &Told<'_>) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = hook_state(told.id, told.status, told.pid, told.bundle, told.annotations);
    for hook in hooks {
        if let Err(why) = run_one(hook, told.bundle, &state).await {
            return Err(CriError::internal(format!("run {stage} hook {}", hook.path.display()), why));
        }
    }
    Ok(())
}

/// Runs hooks whose failures change nothing any more: all of them, with a word in the log.
pub(crate) async fn run_anyway(stage: &'static str, hooks: &[Hook], told: &Told<'_>) {
    let state = hook_state(told.id, told.status, told.pid, told.bundle, told.annotations);
    for hook in hooks {
        if let Err(why) = run_one(hook, told.bundle, &state).await {
            tracing::warn!(container = told.id, stage, hook = %hook.path.display(), why, "a hook failed");
        }
    }
}

/// Runs one program, which is told `state`; what it says to its standard error is why it has failed.
pub(crate) async fn run_one(hook: &Hook, bundle: &Path, state: &str) -> std::result::Result<(), String> {
    let mut command = tokio::process::Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    let env = hook.env.iter().map(|variable| variable.split_once('=').unwrap_or((variable, "")));
    let directory = if bundle.is_dir() { bundle } else { Path::new("/") };
    command.env_clear().envs(env).current_dir(directory).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let (input, output) = (child.stdin.take(), child.stderr.take());
    let mut said = Vec::new();
    let patience = hook.timeout.map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
    let talk = async {
        let tell = async {
            if let Some(mut input) = input {
                // A hook need not read what it is told.
                let _unheard = input.write_all(state.as_bytes()).await;
            }
        };
        let mut end = std::pin::pin!(async { tokio::join!(tell, child.wait()).1 });
        let mut listen = std::pin::pin!(listen(output, &mut said));
        tokio::select! {
            // Whom it left behind may hold its output for ever: its own end is what counts, and what is said by then.
            ended = &mut end => {
                let _late = tokio::time::timeout(LAST_WORDS, &mut listen).await;
                ended
            }
            () = &mut listen => end.await,
        }
    };
    let ended = tokio::time::timeout(patience.min(LONGEST_TIMEOUT), talk).await;
    let words = String::from_utf8_lossy(&said);
    let words = match words.trim() {
        "" => String::new(),
        words => format!(": {words}"),
    };
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}{words}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            if let Some(group) = group {
                // It leads a group of its own: what it has started goes too.
                let _gone = kill_process_group(group, Signal::KILL);
            }
            Err(format!("killed after {} s{words}", patience.as_secs()))
        }
    }
}

/// Keeps the beginning of what a hook says, and drops the rest, so that it is not held up.
async fn listen(output: Option<tokio::process::ChildStderr>, said: &mut Vec<u8>) {
    if let Some(mut output) = output {
        let _as_far_as_it_came = (&mut output).take(LONGEST_SAYING).read_to_end(said).await;
        let _dropped = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests;
