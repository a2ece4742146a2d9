//! An object told in full, with its events.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use super::table::{age, plain};
use super::{environment, storage};
use crate::kinds::Kind;

/// The description of an object. Secret values are told by their sizes only.
pub(crate) fn describe(kind: &Kind, object: &Value, events: &[Value], now: Timestamp) -> String {
    let mut out = Out::default();
    let meta = &object["metadata"];
    out.field("Name", &text(&meta["name"]));
    if kind.namespaced {
        out.field("Namespace", &text(&meta["namespace"]));
    }
    match kind.kind {
        "Pod" => pod(object, &mut out),
        "ConfigMap" => {
            out.map("Labels", &meta["labels"]);
            out.data("Data", &object["data"]);
        }
        "Secret" => {
            out.map("Labels", &meta["labels"]);
            out.field("Type", &text(&object["type"]));
            out.sizes("Data", &object["data"]);
        }
        "PersistentVolumeClaim" => {
            out.field("StorageClass", &text(&object["spec"]["storageClassName"]));
            out.field("Status", &storage::status(object));
            out.field("Volume", &text(&object["spec"]["volumeName"]));
            out.map("Labels", &meta["labels"]);
            out.map("Annotations", &meta["annotations"]);
            let finalizers: Vec<String> = meta["finalizers"].as_array().into_iter().flatten().map(text).collect();
            out.field("Finalizers", &format!("[{}]", finalizers.join(" ")));
            out.field("Capacity", &text(&object["status"]["capacity"]["storage"]));
            out.field("Access Modes", &storage::modes(&object["status"]["accessModes"]));
            out.field("VolumeMode", &text(&object["spec"]["volumeMode"]));
        }
        _ => {
            out.map("Labels", &meta["labels"]);
            out.map("Annotations", &meta["annotations"]);
            for (title, name) in [
                ("Value", "value"),
                ("GlobalDefault", "globalDefault"),
                ("PreemptionPolicy", "preemptionPolicy"),
                ("Description", "description"),
                ("Handler", "handler"),
            ] {
                if !object[name].is_null() {
                    out.field(title, object[name].as_str().unwrap_or(&object[name].to_string()));
                }
            }
            out.tree("Overhead", &object["overhead"]);
            out.tree("Scheduling", &object["scheduling"]);
            out.tree("Spec", &object["spec"]);
            out.tree("Status", &object["status"]);
        }
    }
    out.events(events, now);
    out.text
}

/// Resources and how much of each, in a line; none for none.
fn amounts(list: &Value) -> Option<String> {
    let amounts: Vec<String> = pairs(list).map(|(name, amount)| format!("{name} {amount}")).collect();
    (!amounts.is_empty()).then(|| amounts.join(", "))
}

fn pod(pod: &Value, out: &mut Out) {
    let (meta, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(amounts) = amounts(&spec["resources"][field]) {
            out.field(title, &amounts);
        }
    }
    if let Some(priority) = spec["priority"].as_i64() {
        out.field("Priority", &priority.to_string());
    }
    for (title, name) in [("Priority Class Name", "priorityClassName"), ("Runtime Class Name", "runtimeClassName")] {
        if let Some(class) = spec[name].as_str() {
            out.field(title, class);
        }
    }
    let host = status["hostIP"].as_str().map_or(String::new(), |ip| format!("/{ip}"));
    out.field("Node", &format!("{}{host}", text(&spec["nodeName"])));
    out.field("Start Time", &text(&status["startTime"]));
    out.map("Labels", &meta["labels"]);
    out.map("Annotations", &meta["annotations"]);
    let deleting = meta["deletionTimestamp"].as_str();
    match deleting {
        Some(at) => {
            out.field("Status", &format!("Terminating (by {at}, grace {} s)", meta["deletionGracePeriodSeconds"]))
        }
        None => out.field("Status", &text(&status["phase"])),
    }
    for name in ["reason", "message"] {
        if let Some(value) = status[name].as_str() {
            out.field(if name == "reason" { "Reason" } else { "Message" }, value);
        }
    }
    out.field("IP", &text(&status["podIP"]));
    for (title, list, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        let containers = spec[list].as_array().map(Vec::as_slice).unwrap_or(&[]);
        if !containers.is_empty() {
            out.line(0, &format!("{title}:"));
        }
        for one in containers {
            let seen = status[statuses].as_array().into_iter().flatten().find(|s| s["name"] == one["name"]);
            container(one, seen.unwrap_or(&Value::Null), out);
        }
    }
    let gates = spec["readinessGates"].as_array().into_iter().flatten().map(|gate| text(&gate["conditionType"]));
    let gates: Vec<String> = gates.collect();
    if !gates.is_empty() {
        out.field("Readiness Gates", &gates.join(", "));
    }
    conditions(&status["conditions"], out);
    volumes(&spec["volumes"], out);
    out.field("QoS Class", &text(&status["qosClass"]));
}

fn container(one: &Value, status: &Value, out: &mut Out) {
    out.line(2, &format!("{}:", text(&one["name"])));
    let mut row = |title: &str, value: &str| out.line(4, &format!("{:<16}{value}", format!("{title}:")));
    row("Container ID", &text(&status["containerID"]));
    row("Image", &text(&one["image"]));
    row("Image ID", &text(&status["imageID"]));
    let ports: Vec<String> = one["ports"].as_array().into_iter().flatten().map(port).collect();
    row("Ports", &if ports.is_empty() { "<none>".into() } else { ports.join(", ") });
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        if let Some(list) = one[field].as_array() {
            let words: Vec<String> = list.iter().map(text).collect();
            row(title, &words.join(" "));
        }
    }
    state("State", &status["state"], &mut row);
    if status["lastState"].as_object().is_some_and(|s| !s.is_empty()) {
        state("Last State", &status["lastState"], &mut row);
    }
    row("Ready", if status["ready"] == true { "True" } else { "False" });
    row("Restart Count", &status["restartCount"].as_i64().unwrap_or(0).to_string());
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(amounts) = amounts(&one["resources"][field]) {
            row(title, &amounts);
        }
    }
    for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if one[field].is_object() {
            row(title, &super::probes::line(&one[field]));
        }
    }
    let from: Vec<String> = one["envFrom"].as_array().into_iter().flatten().map(environment::from).collect();
    if !from.is_empty() {
        row("Environment From", &from.join(", "));
    }
    let variables: Vec<String> = one["env"].as_array().into_iter().flatten().map(environment::variable).collect();
    row("Environment", &if variables.is_empty() { "<none>".into() } else { variables.join(" ") });
    let mounts: Vec<String> = one["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| {
            format!(
                "{} from {} ({}{})",
                text(&m["mountPath"]),
                text(&m["name"]),
                if m["readOnly"] == true { "ro" } else { "rw" },
                ["subPath", "subPathExpr"]
                    .iter()
                    .find_map(|field| m[field].as_str())
                    .map_or(String::new(), |path| { format!(",path=\"{path}\"") })
            )
        })
        .collect();
    row("Mounts", &if mounts.is_empty() { "<none>".into() } else { mounts.join(", ") });
}

fn port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["hostPort"].as_i64().filter(|p| *p != 0) {
        Some(host) => {
            format!("{}/{protocol} (host {}:{host})", port["containerPort"], port["hostIP"].as_str().unwrap_or(""))
        }
        None => format!("{}/{protocol}", port["containerPort"]),
    }
}

fn state(title: &str, state: &Value, row: &mut impl FnMut(&str, &str)) {
    let Some((name, detail)) = state.as_object().and_then(|s| s.iter().next()) else {
        row(title, "Waiting");
        return;
    };
    let mut word = name.clone();
    word[..1].make_ascii_uppercase();
    row(title, &word);
    for (label, field) in [
        ("  Reason", "reason"),
        ("  Message", "message"),
        ("  Exit Code", "exitCode"),
        ("  Signal", "signal"),
        ("  Started", "startedAt"),
        ("  Finished", "finishedAt"),
    ] {
        let value = &detail[field];
        if !(value.is_null() || field == "signal" && value == 0) {
            row(label, &text(value));
        }
    }
}

fn conditions(list: &Value, out: &mut Out) {
    let mut rows = vec![vec!["  Type".to_owned(), "Status".to_owned(), "Reason".to_owned()]];
    for condition in list.as_array().into_iter().flatten() {
        rows.push(vec![
            format!("  {}", text(&condition["type"])),
            text(&condition["status"]),
            condition["reason"].as_str().unwrap_or("").into(),
        ]);
    }
    if rows.len() > 1 {
        out.line(0, "Conditions:");
        out.text.push_str(&plain(&rows));
    }
}

fn volumes(list: &Value, out: &mut Out) {
    let Some(list) = list.as_array().filter(|l| !l.is_empty()) else {
        return;
    };
    out.line(0, "Volumes:");
    for volume in list {
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        let (kind, detail) = source.map_or(("?".to_owned(), String::new()), |(k, v)| (k.clone(), v.to_string()));
        out.line(2, &format!("{}: {kind} {detail}", text(&volume["name"])));
    }
}

/// The text being written.
#[derive(Default)]
struct Out {
    text: String,
}

impl Out {
    fn line(&mut self, indent: usize, line: &str) {
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }

    fn field(&mut self, title: &str, value: &str) {
        let _ = writeln!(self.text, "{:<18}{value}", format!("{title}:"));
    }

    fn map(&mut self, title: &str, map: &Value) {
        let list: Vec<String> = pairs(map).map(|(k, v)| format!("{k}={v}")).collect();
        self.field(title, list.first().map_or("<none>", String::as_str));
        for entry in list.iter().skip(1) {
            self.line(18, entry);
        }
    }

    fn data(&mut self, title: &str, map: &Value) {
        self.line(0, &format!("{title}:"));
        for (key, value) in pairs(map) {
            self.line(2, &format!("{key}:"));
            for line in value.lines() {
                self.line(4, line);
            }
        }
    }

    fn sizes(&mut self, title: &str, map: &Value) {
        self.line(0, &format!("{title}:"));
        for (key, value) in pairs(map) {
            // Base64 of n bytes has ⌈n/3⌉·4 characters, the last ones padding.
            let bytes =
                value.len() / 4 * 3 - value.bytes().rev().take_while(|b| *b == b'=').count().min(value.len() / 4 * 3);
            self.line(2, &format!("{key}: {bytes} bytes"));
        }
    }

    fn tree(&mut self, title: &str, value: &Value) {
        if value.is_null() {
            return;
        }
        self.line(0, &format!("{title}:"));
        let yaml = crate::yaml::to_string(value).unwrap_or_default();
        for line in yaml.lines() {
            self.line(2, line);
        }
    }

    fn events(&mut self, events: &[Value], now: Timestamp) {
        if events.is_empty() {
            self.field("Events", "<none>");
            return;
        }
        self.line(0, "Events:");
        let mut rows = vec![["  Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec()];
        for event in events {
            let last = age(event["lastTimestamp"].as_str().or(event["eventTime"].as_str()), now);
            let count = event["count"].as_i64().unwrap_or(1);
            let when = if count > 1 {
                format!("{last} (x{count} over {})", age(event["firstTimestamp"].as_str(), now))
            } else {
                last
            };
            let source = event["source"]["component"].as_str().or(event["reportingComponent"].as_str()).unwrap_or("");
            rows.push(vec![
                format!("  {}", text(&event["type"])),
                text(&event["reason"]),
                when,
                source.into(),
                event["message"].as_str().unwrap_or("").trim().into(),
            ]);
        }
        self.text.push_str(&plain(&rows));
    }
}

fn pairs(map: &Value) -> impl Iterator<Item = (&String, String)> {
    map.as_object().into_iter().flatten().map(|(k, v)| (k, text(v)))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) if text.is_empty() => "<none>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_told_with_its_containers_and_events() {
        let pod = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"nodeName": "n",
            "readinessGates": [{"conditionType": "example.com/open"}], "containers": [{"name": "c", "image": "nginx",
                "livenessProbe": {"tcpSocket": {"port": 80}}, "ports": [{"containerPort": 80, "hostPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.85.0.2", "containerStatuses": [{"name": "c", "ready": false, "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}});
        let event = json!({"type": "Warning", "reason": "BackOff", "message": "Back-off", "count": 3, "lastTimestamp": "2026-01-01T00:00:00Z", "firstTimestamp": "2026-01-01T00:00:00Z"});
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        let text = describe(Kind::by_name("pod").unwrap(), &pod, &[event], now);
        for part in [
            "Name:             web",
            "80/TCP (host :8080)",
            "Liveness:       tcp-socket :80 delay=0s",
            "Readiness Gates:  example.com/open",
            "CrashLoopBackOff",
            "Exit Code:",
            "BackOff   5s (x3 over 5s)",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn secret_values_are_told_by_their_sizes_only() {
        let secret = json!({"metadata": {"name": "s", "namespace": "d"}, "type": "Opaque", "data": {"k": "aGVsbG8="}});
        let text = describe(Kind::by_name("secret").unwrap(), &secret, &[], Timestamp::UNIX_EPOCH);
        assert!(text.contains("k: 5 bytes") && !text.contains("aGVsbG8"), "{text}");
    }
}
