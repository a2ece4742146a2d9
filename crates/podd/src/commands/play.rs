//! `podd play kube` and `podd kube play|down`: the same objects as apply, in podman's manner.

use anyhow::bail;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{api_error, apply, objects, wait};
use crate::cli::PlayKube;
use crate::config::Settings;
use crate::manifests::Item;
use crate::print::say;
use crate::{client, manifests};

pub(crate) async fn run(args: PlayKube, settings: &Settings) -> anyhow::Result<()> {
    if args.down {
        return down(&args.files, &args.namespace.namespace, settings).await;
    }
    let mut items = manifests::read(&args.files, false).await?;
    apply::set_namespaces(&mut items, &args.namespace.namespace);
    let ports = args.publish.iter().map(|text| Published::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    publish(&mut items, &ports)?;
    apply::check(&items)?;
    if !args.start {
        // Objects without pods are made; pods are checked only, since a Pod object that exists runs.
        items.retain(|item| item.kind.kind != "Pod");
    }
    let client = client::connect(settings).await?;
    if args.replace {
        remove(&client, &items, Removal::Pods).await?;
    }
    for item in &items {
        let (outcome, _) = apply::send(&client, item, apply::How::default()).await?;
        if outcome == apply::Outcome::Unchanged && !args.replace && !args.quiet {
            eprintln!("{}/{} is there already and unchanged", item.kind.singular(), item.name());
        }
        if !args.quiet {
            say!("{}/{}", item.kind.singular(), item.name());
        }
    }
    if args.wait {
        until_ended_or_signal(&client, &items).await?;
        remove(&client, &items, Removal::Pods).await?;
    }
    Ok(())
}

/// Deletes the objects that the manifests name, whatever of them exists.
pub(crate) async fn down(files: &[String], namespace: &str, settings: &Settings) -> anyhow::Result<()> {
    let mut items = manifests::read(files, false).await?;
    apply::set_namespaces(&mut items, namespace);
    let client = client::connect(settings).await?;
    for name in remove(&client, &items, Removal::All).await? {
        say!("{name} removed");
    }
    Ok(())
}

/// What of a manifest is removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// Pods: what runs. Data and configuration stay.
    Pods,
    /// Everything but namespaces, which may hold what others made.
    All,
}

/// Deletes and waits; the names of what was there.
async fn remove(client: &kube::Client, items: &[Item], what: Removal) -> anyhow::Result<Vec<String>> {
    let doomed = items.iter().rev().filter(|item| match what {
        Removal::Pods => item.kind.kind == "Pod",
        Removal::All => item.kind.kind != "Namespace",
    });
    let mut going = Vec::new();
    for item in doomed {
        let api = objects(client, item.kind, item.namespace().unwrap_or("default"));
        match api.delete(item.name(), &Default::default()).await {
            Ok(answer) => going.push((item, answer.left().and_then(|o| o.metadata.uid))),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(api_error(error)),
        }
    }
    let mut names = Vec::new();
    for (item, uid) in going {
        if let Some(uid) = uid {
            wait::until_gone(client, item.kind, item.namespace().unwrap_or("default"), item.name(), &uid, None).await?;
        }
        names.push(format!("{}/{}", item.kind.singular(), item.name()));
    }
    Ok(names)
}

/// Returns when every pod has ended, or on Ctrl-C or SIGTERM.
async fn until_ended_or_signal(client: &kube::Client, items: &[Item]) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = async {
        for item in items.iter().filter(|item| item.kind.kind == "Pod") {
            wait::until_ended(client, item.namespace().unwrap_or("default"), item.name()).await?;
        }
        anyhow::Ok(())
    };
    // Each arm may be cancelled: waiting changes nothing.
    tokio::select! {
        result = ended => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// A `--publish` argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    host_ip: Option<String>,
    host_port: Option<u16>,
    container_port: u16,
    protocol: String,
}

impl Published {
    /// Reads `[[IP:]HOSTPORT:]CONTAINERPORT[/PROTOCOL]`.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow::anyhow!("--publish={text}: write [[IP:]HOSTPORT:]CONTAINERPORT[/PROTOCOL], ports from 1 to 65535")
        };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(wrong);
        let (rest, container) = match ports.rsplit_once(':') {
            Some((rest, container)) => (Some(rest), container),
            None => (None, ports),
        };
        let (host_ip, host) =
            match rest.map(|rest| rest.rsplit_once(':').map_or((None, rest), |(ip, host)| (Some(ip), host))) {
                Some((ip, host)) => (ip, Some(host)),
                None => (None, None),
            };
        let host_ip = host_ip.map(|ip| ip.trim_matches(['[', ']'])).filter(|ip| !ip.is_empty());
        if host_ip.is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err())
            || !["tcp", "udp"].contains(&protocol.to_lowercase().as_str())
        {
            return Err(wrong());
        }
        Ok(Published {
            host_ip: host_ip.map(Into::into),
            host_port: host.filter(|h| !h.is_empty()).map(port).transpose()?,
            container_port: port(container)?,
            protocol: protocol.to_uppercase(),
        })
    }
}

/// Sets the host ports in the one pod of the manifest.
fn publish(items: &mut [Item], ports: &[Published]) -> anyhow::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut pods: Vec<&mut Item> = items.iter_mut().filter(|item| item.kind.kind == "Pod").collect();
    let [pod] = pods.as_mut_slice() else { bail!("--publish needs a manifest with exactly one pod") };
    let containers = pod.value["spec"]["containers"].as_array_mut().filter(|list| !list.is_empty());
    let Some(containers) = containers else { bail!("--publish needs a pod with a container") };
    for port in ports {
        set_port(containers, port);
    }
    Ok(())
}

/// In the container that names the port already, else in the first.
fn set_port(containers: &mut [Value], port: &Published) {
    let host = port.host_port.unwrap_or(port.container_port);
    for container in containers.iter_mut() {
        for named in container["ports"].as_array_mut().into_iter().flatten() {
            let protocol = named["protocol"].as_str().unwrap_or("TCP");
            if named["containerPort"] == port.container_port && protocol == port.protocol {
                named["hostPort"] = host.into();
                if let Some(ip) = &port.host_ip {
                    named["hostIP"] = ip.as_str().into();
                }
                return;
            }
        }
    }
    let mut entry = json!({"containerPort": port.container_port, "hostPort": host, "protocol": port.protocol});
    if let Some(ip) = &port.host_ip {
        entry["hostIP"] = ip.as_str().into();
    }
    match containers[0].get_mut("ports").and_then(Value::as_array_mut) {
        Some(list) => list.push(entry),
        None => containers[0]["ports"] = json!([entry]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_are_read_as_podman_reads_them() {
        let table = [
            ("80", (None, None, 80, "TCP")),
            ("8080:80", (None, Some(8080), 80, "TCP")),
            ("127.0.0.1:8080:80/udp", (Some("127.0.0.1"), Some(8080), 80, "UDP")),
            ("[::1]:8080:80", (Some("::1"), Some(8080), 80, "TCP")),
            ("127.0.0.1::80", (Some("127.0.0.1"), None, 80, "TCP")),
        ];
        for (text, (ip, host, container, protocol)) in table {
            let want = Published {
                host_ip: ip.map(Into::into),
                host_port: host,
                container_port: container,
                protocol: protocol.into(),
            };
            assert_eq!(Published::parse(text).unwrap(), want, "{text}");
        }
        for text in ["", "x", "0", "70000", "80/sctp", "x:80:80"] {
            assert!(Published::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_published_port_goes_to_the_container_that_names_it() {
        let mut containers = vec![json!({"name": "a"}), json!({"name": "b", "ports": [{"containerPort": 80}]})];
        set_port(&mut containers, &Published::parse("8080:80").unwrap());
        set_port(&mut containers, &Published::parse("9090").unwrap());
        assert_eq!(containers[1]["ports"][0]["hostPort"], 8080);
        assert_eq!(containers[0]["ports"], json!([{"containerPort": 9090, "hostPort": 9090, "protocol": "TCP"}]));
    }
}
