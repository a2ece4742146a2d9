//! Tables: columns of text, as wide as their content, three spaces apart.

use jiff::Timestamp;
use serde_json::Value;

use super::{pod, storage};
use crate::kinds::Kind;

/// Which columns a table has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) wide: bool,
    pub(crate) namespace: bool,
    pub(crate) labels: bool,
    /// Names as `pod/x`, where several kinds are shown.
    pub(crate) kind_prefix: bool,
    pub(crate) now: Timestamp,
}

/// A column: its title, and its text for an object.
pub(super) type Column = (&'static str, fn(&Value, Timestamp) -> String);

const POD: &[Column] = &[("READY", pod::ready), ("STATUS", pod::status), ("RESTARTS", pod::restarts), ("AGE", created)];
const POD_WIDE: &[Column] =
    &[("IP", |p, _| or_none(&p["status"]["podIP"])), ("NODE", |p, _| or_none(&p["spec"]["nodeName"]))];
const NODE: &[Column] = &[
    ("STATUS", node_status),
    ("AGE", created),
    ("VERSION", |n, _| or_none(&n["status"]["nodeInfo"]["kubeletVersion"])),
];
const NODE_WIDE: &[Column] = &[
    ("INTERNAL-IP", |n, _| {
        let addresses = n["status"]["addresses"].as_array();
        let internal = addresses.into_iter().flatten().find(|a| a["type"] == "InternalIP");
        internal.map_or("<none>".into(), |a| or_none(&a["address"]))
    }),
    ("OS-IMAGE", |n, _| or_none(&n["status"]["nodeInfo"]["osImage"])),
    ("KERNEL-VERSION", |n, _| or_none(&n["status"]["nodeInfo"]["kernelVersion"])),
    ("CONTAINER-RUNTIME", |n, _| or_none(&n["status"]["nodeInfo"]["containerRuntimeVersion"])),
];
const NAMESPACE: &[Column] = &[("STATUS", |n, _| or_none(&n["status"]["phase"])), ("AGE", created)];
const CONFIG_MAP: &[Column] =
    &[("DATA", |c, _| (count(&c["data"]) + count(&c["binaryData"])).to_string()), ("AGE", created)];
const SECRET: &[Column] =
    &[("TYPE", |s, _| or_none(&s["type"])), ("DATA", |s, _| count(&s["data"]).to_string()), ("AGE", created)];
const PRIORITY_CLASS: &[Column] = &[
    ("VALUE", |c, _| c["value"].as_i64().unwrap_or(0).to_string()),
    ("GLOBAL-DEFAULT", |c, _| c["globalDefault"].as_bool().unwrap_or(false).to_string()),
    ("AGE", created),
    ("PREEMPTIONPOLICY", |c, _| or_none(&c["preemptionPolicy"])),
];
const RUNTIME_CLASS: &[Column] = &[("HANDLER", |c, _| or_none(&c["handler"])), ("AGE", created)];
const EVENT: &[Column] = &[
    ("LAST SEEN", |e, now| age(e["lastTimestamp"].as_str().or(e["eventTime"].as_str()), now)),
    ("TYPE", |e, _| or_none(&e["type"])),
    ("REASON", |e, _| or_none(&e["reason"])),
    ("OBJECT", |e, _| {
        let object = &e["involvedObject"];
        format!("{}/{}", object["kind"].as_str().unwrap_or("").to_lowercase(), object["name"].as_str().unwrap_or(""))
    }),
    ("MESSAGE", |e, _| e["message"].as_str().unwrap_or("").trim().replace('\n', " ")),
];

/// The columns of a kind beside its name: always, and with `-o wide`.
fn columns_of(kind: &str) -> (&'static [Column], &'static [Column]) {
    match kind {
        "Pod" => (POD, POD_WIDE),
        "Node" => (NODE, NODE_WIDE),
        "Namespace" => (NAMESPACE, &[]),
        "ConfigMap" => (CONFIG_MAP, &[]),
        "Secret" => (SECRET, &[]),
        "PriorityClass" => (PRIORITY_CLASS, &[]),
        "RuntimeClass" => (RUNTIME_CLASS, &[]),
        "Event" => (EVENT, &[]),
        "PersistentVolumeClaim" => (storage::CLAIM, storage::CLAIM_WIDE),
        "PersistentVolume" => (storage::VOLUME, storage::VOLUME_WIDE),
        "StorageClass" => (storage::CLASS, &[]),
        _ => (&[("AGE", created)], &[]),
    }
}

/// A table of objects of one kind.
pub(crate) fn table(kind: &Kind, objects: &[Value], columns: &Columns, header: bool) -> String {
    plain(&rows(kind, objects, columns, header))
}

/// The cells of [`table`].
pub(crate) fn rows(kind: &Kind, objects: &[Value], columns: &Columns, header: bool) -> Vec<Vec<String>> {
    let (always, wide) = columns_of(kind.kind);
    let shown: Vec<Column> = always.iter().chain(if columns.wide { wide } else { &[] }).copied().collect();
    // Events are told by what happened, not by their names.
    let named = kind.kind != "Event";
    let mut rows = Vec::new();
    if header {
        let mut row = Vec::new();
        row.extend(columns.namespace.then(|| "NAMESPACE".to_owned()));
        row.extend(named.then(|| "NAME".to_owned()));
        row.extend(shown.iter().map(|(title, _)| (*title).to_owned()));
        row.extend(columns.labels.then(|| "LABELS".to_owned()));
        rows.push(row);
    }
    for object in objects {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap_or("");
        let name = if kind.kind == "StorageClass" { storage::name(object) } else { name.to_owned() };
        let mut row = Vec::new();
        row.extend(columns.namespace.then(|| or_none(&meta["namespace"])));
        row.extend(
            named.then(|| if columns.kind_prefix { format!("{}/{name}", kind.singular()) } else { name.clone() }),
        );
        row.extend(shown.iter().map(|(_, text)| text(object, columns.now)));
        row.extend(columns.labels.then(|| labels(&meta["labels"])));
        rows.push(row);
    }
    rows
}

/// Rows as text, columns aligned.
pub(crate) fn plain(rows: &[Vec<String>]) -> String {
    aligned(rows, &mut Vec::new())
}

/// Rows as text, at least as wide as the rows before them, whose widths are kept in `widths`.
pub(crate) fn aligned(rows: &[Vec<String>], widths: &mut Vec<usize>) -> String {
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (n, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if n + 1 < row.len() {
                text.push_str(&" ".repeat(widths[n] - cell.chars().count() + 3));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// The time since an RFC 3339 time, as kubectl shortens it.
pub(crate) fn age(since: Option<&str>, now: Timestamp) -> String {
    let Some(since) = since.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return "<unknown>".into();
    };
    let seconds = now.as_second() - since.as_second();
    let (m, h, d) = (60, 3600, 86_400);
    match seconds {
        ..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        s if s < 10 * m => {
            if s % m == 0 {
                format!("{}m", s / m)
            } else {
                format!("{}m{}s", s / m, s % m)
            }
        }
        s if s < 3 * h => format!("{}m", s / m),
        s if s < 8 * h => {
            if s % h < m {
                format!("{}h", s / h)
            } else {
                format!("{}h{}m", s / h, s % h / m)
            }
        }
        s if s < 2 * d => format!("{}h", s / h),
        s if s < 8 * d => {
            if s % d < h {
                format!("{}d", s / d)
            } else {
                format!("{}d{}h", s / d, s % d / h)
            }
        }
        s if s < 730 * d => format!("{}d", s / d),
        s => format!("{}y{}d", s / (365 * d), s % (365 * d) / d),
    }
}

pub(super) fn created(object: &Value, now: Timestamp) -> String {
    age(object["metadata"]["creationTimestamp"].as_str(), now)
}

fn node_status(node: &Value, _: Timestamp) -> String {
    let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    match ready.and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready".into(),
        Some("False") => "NotReady".into(),
        _ => "Unknown".into(),
    }
}

fn count(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

fn labels(labels: &Value) -> String {
    let pairs: Vec<String> =
        labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

pub(super) fn or_none(value: &Value) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-10T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn later_rows_keep_the_columns_of_earlier_ones() {
        let row = |cells: [&str; 3]| vec![cells.map(str::to_owned).to_vec()];
        let mut widths = Vec::new();
        assert_eq!(aligned(&row(["NAME", "STATUS", "AGE"]), &mut widths), "NAME   STATUS   AGE\n");
        assert_eq!(aligned(&row(["a", "Terminating", "1s"]), &mut widths), "a      Terminating   1s\n");
        assert_eq!(aligned(&row(["b", "Running", "2s"]), &mut widths), "b      Running       2s\n");
    }

    #[test]
    fn ages_are_shortened_as_kubectl_does() {
        let table = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (14_460, "4h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (-5, "0s"),
        ];
        for (seconds, want) in table {
            let since = Timestamp::from_second(now().as_second() - seconds).unwrap().to_string();
            assert_eq!(age(Some(&since), now()), want, "{seconds}");
        }
        assert_eq!(age(None, now()), "<unknown>");
    }

    #[test]
    fn a_table_of_pods_looks_like_kubectls() {
        let pod = json!({"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-09T23:59:00Z", "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": "10.85.0.2", "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}}],
                "conditions": [{"type": "Ready", "status": "True"}]}});
        let columns = Columns { wide: true, namespace: true, labels: true, kind_prefix: false, now: now() };
        let text = table(Kind::by_name("po").unwrap(), &[pod], &columns, true);
        assert_eq!(
            text,
            "NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE   IP          NODE   LABELS\n\
             default     web    1/1     Running   0          60s   10.85.0.2   n      a=b\n"
        );
    }
}
