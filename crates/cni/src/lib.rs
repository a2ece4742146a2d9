//! The CNI protocol from the side of a runtime: which configuration counts, and how its plugins are run.
//!
//! Nothing is kept here: a caller stores the [`NetworkList`] and the result of [`add`], and gives both to [`del`].

mod config;
mod plugin;
mod result;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use config::{NetworkList, load};
pub use result::addresses;

/// Why a network could not be read, made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the directory, or the directory, cannot be used.
    #[error("CNI configuration {}: {reason}", path.display())]
    Config {
        /// The file or the directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Programs of plugins are not there.
    #[error("CNI plugin {plugins} not found in {looked}")]
    Missing {
        /// Their names.
        plugins: String,
        /// The directories that were looked in.
        looked: String,
    },
    /// A plugin failed, answered what is no answer, or took too long.
    #[error("CNI plugin {plugin} {command}: {reason}")]
    Plugin {
        /// The plugin's `type`.
        plugin: String,
        /// `ADD`, `DEL` or `CHECK`.
        command: &'static str,
        /// What it said, or what happened to it.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What a pod is to its plugins; the same for `ADD` and `DEL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox's id.
    pub container_id: String,
    /// Where the network namespace is found; empty when it is gone.
    pub netns: String,
    /// The interface in the pod.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// By the name of a capability, what a plugin that declares it is given (`portMappings`, `bandwidth`, …).
    pub capabilities: Map<String, Value>,
}

/// How plugins are run.
#[derive(Clone, Debug)]
pub struct Runner {
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// How long each may take.
    pub deadline: Duration,
}

/// Makes the network: each plugin in turn, each with the result of the one before. Answers the last result.
///
/// # Errors
/// When a plugin fails; what earlier ones made is there then, for [`del`] to take away.
pub async fn add(runner: &Runner, list: &NetworkList, to: &Attachment) -> Result<Value> {
    let mut result = None;
    for plugin in &list.plugins {
        let input = input(list, plugin, to, result.as_ref());
        result = Some(runner.run("ADD", &input, to).await?);
    }
    Ok(result.unwrap_or_else(|| json!({ "cniVersion": list.cni_version })))
}

/// Takes the network away, in reverse order. A plugin that fails does not keep the others from their work; its error is
/// the answer then. Can be repeated. A plugin that is not there any more cannot ever do its part: it is passed over.
/// Answers those.
///
/// # Errors
/// When a plugin fails.
pub async fn del(runner: &Runner, list: &NetworkList, from: &Attachment, result: Option<&Value>) -> Result<Vec<Error>> {
    let result = result.filter(|_| list.knows_check());
    let (mut missing, mut outcome) = (Vec::new(), Ok(()));
    for plugin in list.plugins.iter().rev() {
        let input = input(list, plugin, from, result);
        match runner.run("DEL", &input, from).await {
            Err(error @ Error::Missing { .. }) => missing.push(error),
            ended => outcome = outcome.and(ended.map(drop)),
        }
    }
    outcome.map(|()| missing)
}

/// Whether the network is as `ADD` made it. A list that is too old for that, or forbids it, is believed.
///
/// # Errors
/// What the first plugin that is not content says.
pub async fn check(runner: &Runner, list: &NetworkList, of: &Attachment, result: &Value) -> Result<()> {
    if list.disable_check || !list.knows_check() {
        return Ok(());
    }
    for plugin in &list.plugins {
        runner.run("CHECK", &input(list, plugin, of, Some(result)), of).await?;
    }
    Ok(())
}

/// What a plugin reads: its own configuration, completed.
fn input(list: &NetworkList, plugin: &Map<String, Value>, to: &Attachment, previous: Option<&Value>) -> Value {
    let mut input = plugin.clone();
    input.insert("name".into(), list.name.clone().into());
    input.insert("cniVersion".into(), list.cni_version.clone().into());
    let declares = |name: &str| plugin.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true));
    // Capabilities are for the runtime; the plugin gets their values.
    let given: Map<String, Value> =
        to.capabilities.iter().filter(|(name, _)| declares(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    if !given.is_empty() {
        input.insert("runtimeConfig".into(), given.into());
    }
    input.remove("capabilities");
    if let Some(previous) = previous {
        input.insert("prevResult".into(), previous.clone());
    }
    Value::Object(input)
}
