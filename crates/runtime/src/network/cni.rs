//! Pods on a network of CNI plugins. What `ADD` was asked is on disk before it runs, so that `DEL` takes away the same
//! after a restart, after a crash half way, and after the configuration was changed.
//!
//! ```text
//! <root>/cni/<sandbox>.json    the list, the attachment, the result
//! <run>/netns/<sandbox>        the pod's network namespace, held until DEL
//! ```

mod kept;
mod takeover;
mod told;

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podd_cni::{Attachment, NetworkList, Runner};
use serde_json::{Value, json};

use self::kept::{Kept, hold, is_namespace, let_go, there};
use crate::config::{CniConfig, NetworkChoice};
use crate::error::{Context, CriError, Result};
use crate::records::SandboxMeta;

/// How long one plugin may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The pod's interface.
const INTERFACE: &str = "eth0";

/// The CNI side of a runtime's network.
pub(crate) struct Cni {
    config: CniConfig,
    runner: Runner,
    state: PathBuf,
    namespaces: PathBuf,
}

impl Cni {
    pub(crate) fn open(config: CniConfig, root: &Path, run: &Path) -> Self {
        let runner = Runner { bin_dirs: config.bin_dirs.clone(), deadline: DEADLINE };
        let opened = Self { config, runner, state: root.join("cni"), namespaces: run.join("netns") };
        // The configuration may be another program's: whose network pods are on must not be a riddle.
        let directory = opened.config.config_dir.display();
        match opened.choose() {
            Ok(Some(list)) => tracing::info!(network = list.name, %directory, "pods are wired by CNI plugins"),
            Ok(None) => tracing::info!("pods are on podd's own network"),
            Err(reason) => tracing::warn!(reason, "no pod can be wired"),
        }
        opened
    }

    /// The list that a new pod is wired by; none when podd's own network is to serve.
    ///
    /// # Errors
    /// Why no pod can be wired, in the words of `NetworkReady`.
    pub(crate) fn choose(&self) -> std::result::Result<Option<NetworkList>, String> {
        if self.config.network == NetworkChoice::Podd {
            return Ok(None);
        }
        let found = podd_cni::load(&self.config.config_dir).map_err(|error| error.to_string())?;
        match &found {
            None if self.config.network == NetworkChoice::Cni => {
                return Err(format!("no CNI configuration in {}", self.config.config_dir.display()));
            }
            None => {}
            Some(list) => {
                self.runner.have_all(list).map_err(|error| format!("CNI network {}: {error}", list.name))?;
            }
        }
        Ok(found)
    }

    /// For people to see: who wires pods by which configuration, and what is wrong with it. In containerd's form, which
    /// tools know. None when plugins are never asked.
    pub(crate) fn describe(&self) -> Option<(Value, String)> {
        if self.config.network == NetworkChoice::Podd {
            return None;
        }
        let network = |list: &NetworkList| {
            let plugin = |plugin| json!({ "Network": plugin, "Source": json!(plugin).to_string() });
            let plugins: Vec<Value> = list.plugins.iter().map(plugin).collect();
            json!({
                "Config": {
                    "Name": list.name, "CNIVersion": list.cni_version, "Plugins": plugins,
                    "Source": json!(list).to_string(),
                },
                "IFName": INTERFACE,
            })
        };
        let chosen = self.choose();
        let list = chosen.as_ref().ok().and_then(Option::as_ref);
        let networks: Vec<Value> = list.into_iter().map(network).collect();
        let config = json!({
            "PluginDirs": self.config.bin_dirs, "PluginConfDir": self.config.config_dir, "PluginMaxConfNum": 1,
            "Prefix": "eth", "Networks": networks,
        });
        Some((config, chosen.err().unwrap_or_else(|| "OK".to_owned())))
    }

    /// Whether a sandbox is, or may be half, wired by plugins.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.file(id).exists()
    }

    /// Wires a sandbox. Runs in a thread that may block.
    pub(crate) fn attach(
        &self,
        list: NetworkList,
        meta: &SandboxMeta,
        pod_cidr: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<Vec<IpAddr>> {
        let what = || format!("attach the network of sandbox {}", meta.id);
        let attachment = Attachment {
            container_id: meta.id.clone(),
            netns: self.namespaces.join(&meta.id).to_string_lossy().into_owned(),
            interface: INTERFACE.to_owned(),
            args: told::args(meta)?,
            capabilities: told::capabilities(meta, pod_cidr)?,
        };
        let file = self.file(&meta.id);
        let mut kept = Kept::new(list, attachment);
        kept.write(&file).context(what)?;
        hold(netns, Path::new(&kept.attachment.netns)).context(what)?;
        podd_net::Network::bring_up_loopback(netns).context(what)?;
        let result = wait(podd_cni::add(&self.runner, &kept.list, &kept.attachment)).context(what)?;
        let ips = podd_cni::addresses(&result).map_err(|error| CriError::internal(what(), error))?;
        kept.result = Some(result);
        kept.write(&file).context(what)?;
        if ips.is_empty() {
            return Err(CriError::internal(what(), format!("network {} gave no address", kept.list.name)));
        }
        Ok(ips)
    }

    /// [`Self::take_away`], in a thread that may block.
    pub(crate) fn detach(&self, id: &str) -> Result<()> {
        wait(self.take_away(id))
    }

    /// Takes away what plugins have made for a sandbox, if they were ever asked.
    ///
    /// # Errors
    /// When a plugin fails; it can be tried again then. A plugin that is gone, or a record that nobody can read, would
    /// fail for ever: that is logged, and what it made stays.
    pub(crate) async fn take_away(&self, id: &str) -> Result<()> {
        let what = || format!("detach the network of sandbox {id}");
        let file = self.file(id);
        let namespace = self.namespaces.join(id);
        match Kept::read(&file) {
            Ok(None) => {}
            Ok(Some(mut kept)) => {
                if !is_namespace(&namespace) {
                    // Another boot, or it went with its mount namespace: plugins take away what is not in it.
                    kept.attachment.netns.clear();
                }
                let deleted = podd_cni::del(&self.runner, &kept.list, &kept.attachment, kept.result.as_ref());
                for error in deleted.await.context(what)? {
                    tracing::warn!(sandbox = id, network = kept.list.name, %error, "what a plugin made may be left");
                }
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                tracing::warn!(sandbox = id, %error, "a record is damaged; what CNI plugins made may be left");
            }
            Err(error) => return Err(error).context(what),
        }
        let_go(&namespace).context(what)?;
        there(fs::remove_file(&file)).map(drop).context(what)
    }

    /// Asks the plugins whether a pod that lives is still wired.
    pub(crate) async fn check(&self, id: &str) -> Result<()> {
        let what = || format!("check the network of sandbox {id}");
        let Some(Kept { list, attachment, result: Some(result), .. }) = Kept::read(&self.file(id)).context(what)?
        else {
            return Ok(());
        };
        podd_cni::check(&self.runner, &list, &attachment, &result).await.context(what)
    }

    /// The sandboxes that are not known and have a record or a namespace here.
    fn orphans(&self, known: &HashSet<String>) -> Result<HashSet<String>> {
        let mut found = HashSet::new();
        for directory in [&self.state, &self.namespaces] {
            let what = || format!("list {}", directory.display());
            for entry in there(fs::read_dir(directory)).context(what)?.into_iter().flatten() {
                let path = entry.context(what)?.path();
                if path.extension().is_some_and(|ending| ending == "new") {
                    // A write that did not come to its end.
                    there(fs::remove_file(&path)).context(what)?;
                    continue;
                }
                found.extend(path.file_stem().map(|id| id.to_string_lossy().into_owned()));
            }
        }
        found.retain(|id| !known.contains(id));
        Ok(found)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.state.join(format!("{id}.json"))
    }
}

/// The plugins are waited for in a thread for blocking work.
fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(work)
}
