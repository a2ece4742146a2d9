//! Names of the pods: the table that the name server reads, and the server itself.
//!
//! The server is a process of its own (`podd dns`), in the network of a sandbox of its own: no port of the node is in its
//! way, its address is a pod's, and any runtime can make it. It outlives the agent, which finds it again by its lock.
//!
//! ```text
//!  Keeper ── table ──► <run>/names.json ──► podd dns ◄── port 53 ── pods
//!  Server ── sandbox "podd-names" (CRI), process, lock ──────┘
//! ```

mod process;
mod sandbox;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use podd_cgroup::{Group, Hierarchy};
use podd_cri::RuntimeService;
use podd_dns::{Entry, Table};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Config;
use process::Process;
pub(crate) use sandbox::is_sandbox;

/// The longest that a pod waits for the first word of the server's address. Without it, it has the node's servers.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the sandbox is looked at, and how soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest that the runtime may take for the sandbox.
const CALLS: Duration = Duration::from_secs(60);
/// The pause before a server that has ended is started again; twice as long after each further time.
const PAUSE: Duration = Duration::from_millis(200);

/// What the server needs.
#[derive(Clone, Debug, PartialEq)]
pub struct NameServer {
    /// The program whose `dns` command it is.
    pub program: PathBuf,
    /// What it says as its version: a server of another one is replaced.
    pub version: String,
    /// Its control group, below the agent's root.
    pub group: PathBuf,
}

/// Where the server listens, once that is known; empty when there is none.
#[derive(Clone, Debug)]
pub(crate) struct Addresses(watch::Receiver<Option<Vec<IpAddr>>>);

impl Addresses {
    /// Addresses that are known from the start.
    pub(crate) fn fixed(addresses: Vec<IpAddr>) -> Addresses {
        Addresses(watch::channel(Some(addresses)).1)
    }

    /// The addresses; none if the server does not come up in time.
    pub(crate) async fn get(&self) -> Vec<IpAddr> {
        let mut known = self.0.clone();
        let found = tokio::time::timeout(PATIENCE, known.wait_for(Option::is_some)).await;
        found.ok().and_then(Result::ok).and_then(|known| known.clone()).unwrap_or_default()
    }
}

/// The task that keeps a server up, and what is needed to take the server away.
pub(crate) struct Running {
    runtime: Arc<dyn RuntimeService>,
    run: PathBuf,
    group: Group,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts to keep the node's server up, where it has one, and tells where it will listen. One that an earlier configuration
/// had is ended.
///
/// # Errors
/// When the machine's control groups cannot be read.
pub(crate) async fn start(
    config: &Config,
    runtime: &Arc<dyn RuntimeService>,
) -> Result<(Option<Running>, Addresses), podd_cgroup::Error> {
    let with = config.name_server.as_ref().filter(|_| config.cluster_dns.is_empty());
    let Some(with) = with else {
        end(&config.run).await;
        match tokio::time::timeout(PATIENCE, sandbox::remove_all(runtime)).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => warn!(message = status.message(), "remove the sandbox of an old name server"),
            Err(_) => warn!("the sandbox of an old name server is not removed in time"),
        }
        return Ok((None, Addresses::fixed(config.cluster_dns.clone())));
    };
    let group = Hierarchy::detect(config.cgroup_root.trim_start_matches('/'))?.group(&with.group)?;
    let (addresses, known) = watch::channel(None);
    let server = Server {
        with: with.clone(),
        runtime: runtime.clone(),
        run: config.run.clone(),
        resolv_conf: config.resolv_conf.clone(),
        group: group.clone(),
        addresses,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.run(stop.clone()));
    let running = Running { runtime: runtime.clone(), run: config.run.clone(), group, stop, task };
    Ok((Some(running), Addresses(known)))
}

impl Running {
    /// Nobody looks after the server any more; it goes on.
    pub(crate) async fn leave(&mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            warn!(%error, "the task of the name server");
        }
    }

    /// Ends the server and takes its sandbox away, for a node that goes down with its pods. After [`Running::leave`].
    ///
    /// # Errors
    /// What is still there.
    pub(crate) async fn end(self) -> Result<(), String> {
        end(&self.run).await;
        let removed = sandbox::remove_all(&self.runtime).await;
        let group = self.group;
        match tokio::task::spawn_blocking(move || group.remove(PATIENCE)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "remove the control group of the name server"),
            Err(error) => warn!(%error, "remove the control group of the name server"),
        }
        removed.map_err(|status| format!("the sandbox of the name server: {}", status.message()))
    }
}

/// Keeps a server up.
struct Server {
    with: NameServer,
    runtime: Arc<dyn RuntimeService>,
    /// The run directory.
    run: PathBuf,
    resolv_conf: PathBuf,
    /// The server's own group, beside those of the pods.
    group: Group,
    addresses: watch::Sender<Option<Vec<IpAddr>>>,
}

impl Server {
    /// Keeps it up until `stop`; it goes on then.
    async fn run(self, stop: CancellationToken) {
        let mut failed = false;
        let mut pause = PAUSE;
        loop {
            // Cancelled, it leaves a sandbox that the next agent finds.
            let ensured = tokio::select! {
                () = stop.cancelled() => return,
                ensured = tokio::time::timeout(CALLS, self.ensure()) => ensured,
            };
            let process = match ensured.unwrap_or_else(|_| Err("the runtime does not answer".to_owned())) {
                Ok(process) => {
                    failed = false;
                    Some(process)
                }
                Err(error) => {
                    if !failed {
                        warn!(error, "there is no name server for pods; they have the node's");
                    }
                    failed = true;
                    // Whoever waits has waited long enough.
                    self.addresses.send_if_modified(|known| known.is_none() && known.replace(Vec::new()).is_none());
                    None
                }
            };
            let ended = async {
                match &process {
                    Some(process) => process.ended().await,
                    None => std::future::pending().await,
                }
            };
            let wait = tokio::select! {
                () = stop.cancelled() => return,
                // Neither loses anything when it is cancelled.
                () = ended => {
                    info!("the name server has ended and is started again");
                    let now = pause;
                    pause = AGAIN.min(now * 2);
                    now
                }
                () = tokio::time::sleep(AGAIN) => {
                    pause = PAUSE;
                    Duration::ZERO
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn ensure(&self) -> Result<Process, String> {
        let sandbox = sandbox::ensure(&self.runtime).await?;
        let process = process::ensure(self, &sandbox).map_err(|error| format!("start the name server: {error}"))?;
        self.addresses.send_if_modified(|known| {
            let new = Some(sandbox.addresses.clone());
            if known.as_ref().is_some_and(|known| !known.is_empty() && *known != sandbox.addresses) {
                warn!(?known, now = ?sandbox.addresses, "the name server has moved; pods keep the address that they have");
            }
            let changed = *known != new;
            *known = new;
            changed
        });
        Ok(process)
    }
}

/// Ends the server of a run directory, if there is one.
async fn end(run: &Path) {
    if let Some(process) = process::running(run) {
        process.kill();
        if tokio::time::timeout(PATIENCE, process.ended()).await.is_err() {
            warn!("the name server does not end");
        }
    }
}

/// Keeps the table as the pods are.
pub(crate) struct Keeper {
    path: PathBuf,
    domain: String,
    written: Option<Table>,
}

impl Keeper {
    pub(crate) fn new(config: &Config) -> Keeper {
        Keeper { path: table_path(&config.run), domain: config.cluster_domain.clone(), written: None }
    }

    /// Writes the table of these pods, if it differs from the last one.
    pub(crate) fn tell<'a>(&mut self, pods: impl Iterator<Item = &'a Pod>) {
        let table = table(pods, &self.domain);
        if self.written.as_ref() == Some(&table) {
            return;
        }
        // A small file in the run directory, in memory where that is usual: less than handing it to another thread.
        match table.write(&self.path) {
            Ok(()) => self.written = Some(table),
            Err(error) => warn!(%error, path = %self.path.display(), "write the names of the pods"),
        }
    }
}

/// Where the table lies.
pub(crate) fn table_path(run: &Path) -> PathBuf {
    run.join("names.json")
}

/// The table of these pods, which the API knows: each by its name, and by its host name where it has a subdomain.
pub(crate) fn table<'a>(pods: impl Iterator<Item = &'a Pod>, domain: &str) -> Table {
    let mut entries: Vec<Entry> = pods.flat_map(entries).collect();
    entries.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    entries.dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    Table::new(domain, entries)
}

fn entries(pod: &Pod) -> Vec<Entry> {
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let addresses: Vec<IpAddr> =
        status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let entry = |name: String| Entry {
        namespace: namespace.unwrap_or("default").to_owned(),
        name,
        addresses: addresses.clone(),
    };
    let spec = pod.spec.as_ref();
    let host = spec.and_then(|spec| spec.hostname.as_deref()).or(name).unwrap_or_default();
    let qualified = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|subdomain| !subdomain.is_empty());
    [name.map(str::to_owned), qualified.map(|subdomain| format!("{host}.{subdomain}"))]
        .into_iter()
        .flatten()
        .map(entry)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value, status: Value) -> Pod {
        let metadata = json!({"name": name, "namespace": "shop"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("a pod")
    }

    #[test]
    fn a_pod_is_known_by_its_name_while_it_has_an_address() {
        let ips = |ip: &str| json!([{"ip": ip}, {"ip": "fd00::1"}]);
        let containers = json!({"containers": []});
        let pods = [
            pod("web", containers.clone(), json!({"phase": "Running", "podIPs": ips("10.85.0.3")})),
            pod("done", containers.clone(), json!({"phase": "Succeeded", "podIPs": ips("10.85.0.4")})),
            pod("new", containers, json!({"phase": "Pending"})),
            pod(
                "db-0",
                json!({"containers": [], "hostname": "first", "subdomain": "db"}),
                json!({"phase": "Running", "podIPs": [{"ip": "10.85.0.5"}]}),
            ),
        ];
        let table = table(pods.iter(), "cluster.local");
        let names: Vec<String> =
            table.entries.iter().map(|e| format!("{}/{} {:?}", e.namespace, e.name, e.addresses)).collect();
        assert_eq!(names, ["shop/db-0 [10.85.0.5]", "shop/first.db [10.85.0.5]", "shop/web [10.85.0.3, fd00::1]"]);
    }
}
