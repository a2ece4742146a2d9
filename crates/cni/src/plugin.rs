//! One run of one plugin: environment and standard input in, a result or an error out.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::{Attachment, Error, NetworkList, Result, Runner};

/// More than this is kept of no plugin's output.
const MAX_OUTPUT: u64 = 1 << 20;
/// How long the output of a plugin that has ended is read on: a daemon that it left behind may hold it for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What plugins find their own helpers (iptables) by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A plugin's answer when it failed.
#[derive(Deserialize)]
struct Failure {
    code: i64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// The process group of a plugin, which goes when it is not waited for any more: what the plugin has started as well.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _gone = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Runner {
    /// Whether the programs of a list are there: of its plugins, and of those that these hand the addresses over to.
    ///
    /// # Errors
    /// [`Error::Missing`], with all that are not.
    pub fn have_all(&self, list: &NetworkList) -> Result<()> {
        let kind = |config: &Map<String, Value>| config.get("type").and_then(Value::as_str).map(str::to_owned);
        let ipam = |plugin: &Map<String, Value>| plugin.get("ipam").and_then(Value::as_object).and_then(kind);
        let wanted = list.plugins.iter().flat_map(|plugin| [kind(plugin), ipam(plugin)]).flatten();
        // An `ipam` without a name is how a plugin is told that it shall give no address.
        let mut missing: Vec<String> = wanted.filter(|name| !name.is_empty() && self.find(name).is_none()).collect();
        missing.dedup();
        if missing.is_empty() { Ok(()) } else { Err(self.missing(missing.join(", "))) }
    }

    /// Runs the plugin of a configuration.
    pub(crate) async fn run(&self, command: &'static str, input: &Value, at: &Attachment) -> Result<Value> {
        let plugin = input.get("type").and_then(Value::as_str).unwrap_or_default();
        let fail = |reason: String| Error::Plugin { plugin: plugin.to_owned(), command, reason };
        let program = self.find(plugin).ok_or_else(|| self.missing(plugin.to_owned()))?;
        let run = self.process(&program, command, input, at);
        let output = match tokio::time::timeout(self.deadline, run).await {
            Ok(output) => output.map_err(|error| fail(format!("{}: {error}", program.display())))?,
            Err(_) => return Err(fail(format!("did not end within {:?}", self.deadline))),
        };
        if !output.status.success() {
            return Err(fail(failure(&output)));
        }
        if command != "ADD" {
            return Ok(Value::Null);
        }
        match serde_json::from_slice::<Map<String, Value>>(&output.stdout) {
            Ok(result) => Ok(result.into()),
            Err(error) => Err(fail(format!("its result cannot be read: {error}"))),
        }
    }

    fn missing(&self, plugins: String) -> Error {
        Error::Missing { plugins, looked: self.path() }
    }

    fn find(&self, plugin: &str) -> Option<PathBuf> {
        let program = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        self.bin_dirs.iter().map(|directory| directory.join(plugin)).find(program)
    }

    fn path(&self) -> String {
        let list: Vec<_> = self.bin_dirs.iter().map(|directory| directory.to_string_lossy()).collect();
        list.join(":")
    }

    async fn process(&self, program: &Path, command: &str, input: &Value, at: &Attachment) -> std::io::Result<Output> {
        let mut child = Command::new(program)
            .env_clear()
            .env("PATH", PATH)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &at.container_id)
            .env("CNI_NETNS", &at.netns)
            .env("CNI_IFNAME", &at.interface)
            .env("CNI_PATH", self.path())
            .env("CNI_ARGS", &at.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // Dropped before the child, which is not reaped then: the number is still its.
        let mut group = Group(leader(&child));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let write = async move {
            if let Some(mut stdin) = stdin {
                // A plugin may end without reading; its status tells how.
                let _unread = stdin.write_all(input.to_string().as_bytes()).await;
            }
        };
        let status = {
            let talk = async { tokio::join!(write, listen(stdout, &mut said), listen(stderr, &mut complained)) };
            let (mut talk, mut end) = (pin!(talk), pin!(child.wait()));
            tokio::select! {
                // Both go on in their arms: nothing is lost with the one that was not first.
                ended = &mut end => {
                    group.0 = None; // reaped: the number may be another's from now on
                    let _late = tokio::time::timeout(LAST_WORDS, &mut talk).await;
                    ended?
                }
                _ = &mut talk => {
                    let ended = end.await;
                    group.0 = None;
                    ended?
                }
            }
        };
        Ok(Output { status, stdout: said, stderr: complained })
    }
}

fn leader(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
}

/// Keeps the beginning of what a plugin says, and drops the rest, so that it is not held up.
async fn listen(pipe: Option<impl AsyncRead + Unpin>, said: &mut Vec<u8>) {
    if let Some(mut pipe) = pipe {
        let _as_far_as_it_came = (&mut pipe).take(MAX_OUTPUT).read_to_end(said).await;
        let _dropped = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
}

/// What a plugin that failed says, in its own form or in any other.
fn failure(output: &Output) -> String {
    if let Ok(Failure { code, msg, details }) = serde_json::from_slice(&output.stdout) {
        let details = if details.is_empty() { details } else { format!("; {details}") };
        return format!("{msg}{details} (code {code})");
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(1000).collect::<String>();
    format!("{}: {} {}", output.status, text(&output.stdout), text(&output.stderr)).trim().to_owned()
}
