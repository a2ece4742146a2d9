//! Hooks: programs that run at points of a container's life (OCI runtime specification, config.md "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The version of the OCI runtime specification whose state hooks are told.
const OCI_VERSION: &str = "1.2.1";

/// One program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its arguments, the program's name first; empty means the path alone.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds after which it is killed and has failed.
    #[serde(default)]
    pub timeout: Option<u32>,
}

/// The hooks that run in the container's namespaces, and what they are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsideHooks {
    /// The child stops before it enters its root, so that the runtime can run hooks of its own: [`Request::Create`] is
    /// then answered by [`Response::Paused`], and goes on with [`Request::Proceed`].
    ///
    /// [`Request::Create`]: super::Request::Create
    /// [`Request::Proceed`]: super::Request::Proceed
    /// [`Response::Paused`]: super::Response::Paused
    #[serde(default)]
    pub pause: bool,
    /// The container's bundle directory.
    #[serde(default)]
    pub bundle: PathBuf,
    /// The container's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// After all mounts, before the child enters its root: the programs are the host's.
    #[serde(default)]
    pub create_container: Vec<Hook>,
    /// At the start, before the container's program, as its user: the programs are the container's.
    #[serde(default)]
    pub start_container: Vec<Hook>,
}

/// How far a container is, as a hook is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookStatus {
    /// It is being made.
    Creating,
    /// It waits for its start.
    Created,
    /// Its program runs.
    Running,
    /// It has ended.
    Stopped,
}

/// What a hook reads from its standard input (runtime.md, "State").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: HookStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    bundle: &'a Path,
    annotations: &'a BTreeMap<String, String>,
}

/// The state of a container in the words of the specification.
pub fn hook_state(
    id: &str,
    status: HookStatus,
    pid: Option<u32>,
    bundle: &Path,
    annotations: &BTreeMap<String, String>,
) -> String {
    let state = State { oci_version: OCI_VERSION, id, status, pid, bundle, annotations };
    serde_json::to_string(&state).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_told_the_state_of_the_specification() {
        let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let text = hook_state("id", HookStatus::Creating, Some(7), Path::new("/b"), &annotations);
        let expected =
            r#"{"ociVersion":"1.2.1","id":"id","status":"creating","pid":7,"bundle":"/b","annotations":{"a":"b"}}"#;
        assert_eq!(text, expected);
        assert!(!hook_state("id", HookStatus::Stopped, None, Path::new("/b"), &annotations).contains("pid"));
    }
}
