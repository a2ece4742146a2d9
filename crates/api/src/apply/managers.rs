//! `metadata.managedFields`: which manager owns which fields, and how a write changes that.

use serde_json::{Value, json};

use super::schema::Schema;
use super::set::Set;
use super::value::{changes, field_set, merge, prune};

/// Managers of updates kept apart; the oldest beyond it are folded into one, as upstream does.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Apply,
    Update,
}

/// Who writes, when, and through which path.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) manager: String,
    pub(crate) api_version: String,
    /// Empty for the main resource.
    pub(crate) subresource: &'static str,
    /// RFC 3339.
    pub(crate) now: String,
}

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conflict {
    /// The manager, as upstream describes it.
    pub(crate) manager: String,
    /// `.spec.containers[name="a"].image`.
    pub(crate) path: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Manager {
    name: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    set: Set,
}

impl Manager {
    fn new(who: &Who, operation: Operation, set: Set) -> Self {
        Self {
            name: who.manager.clone(),
            operation,
            api_version: who.api_version.clone(),
            subresource: who.subresource.to_owned(),
            time: who.now.clone(),
            set,
        }
    }

    fn is(&self, who: &Who, operation: Operation) -> bool {
        self.name == who.manager
            && self.operation == operation
            && self.api_version == who.api_version
            && self.subresource == who.subresource
    }

    fn described(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {} at {}", self.api_version, self.time));
        }
        text
    }
}

/// Sets the managed fields of `new` after an update of `old`; without `old`, after its creation.
pub(crate) fn update(schema: &Schema, old: Option<&Value>, new: &mut Value, who: &Who) {
    let mut managers = old.map(read).unwrap_or_default();
    // A new object is compared with an empty one, so that its parts as such belong to nobody.
    let before = old.map_or_else(|| json!({"metadata": {}, "spec": {}}), |o| managed_part(o, who));
    let after = managed_part(new, who);
    let changes = changes(schema, Some(&before), Some(&after));
    let mut set = changes.set;
    set.member = false;
    for manager in &mut managers {
        manager.set = manager.set.difference(&changes.removed);
        if !manager.is(who, Operation::Update) {
            manager.set = manager.set.difference(&set);
        }
    }
    match managers.iter_mut().find(|m| m.is(who, Operation::Update)) {
        Some(own) => {
            let before = own.set.clone();
            own.set.extend(set);
            if own.set != before {
                own.time.clone_from(&who.now);
            }
        }
        None => managers.push(Manager::new(who, Operation::Update, set)),
    }
    write(new, managers);
}

/// The object that an applied configuration makes of the live one (or of nothing), with its managed fields.
///
/// # Errors
/// The fields that other managers own with other values, unless `force` takes them over.
pub(crate) fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    who: &Who,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mut managers = live.map(read).unwrap_or_default();
    let mut set = field_set(schema, &managed_part(config, who));
    set.member = false;
    let mut merged = live.map_or_else(|| config.clone(), |live| merge(schema, live, config));
    let own = managers.iter().position(|m| m.is(who, Operation::Apply));
    let last = own.map(|at| managers[at].set.clone()).unwrap_or_default();
    match own {
        Some(at) if managers[at].set != set => {
            managers[at].set = set.clone();
            managers[at].time.clone_from(&who.now);
        }
        Some(_) => {}
        None => managers.push(Manager::new(who, Operation::Apply, set)),
    }
    let mut owned = Set::default();
    managers.iter().for_each(|manager| owned.extend(manager.set.clone()));
    prune(schema, &mut merged, &last, &owned);

    let before = live.map(|live| managed_part(live, who));
    let after = managed_part(&merged, who);
    let changes = changes(schema, before.as_ref(), Some(&after));
    let mut conflicts = Vec::new();
    for manager in managers.iter_mut().filter(|m| !m.is(who, Operation::Apply)) {
        let taken = manager.set.intersection(&changes.set);
        let described = manager.described();
        let paths = taken.paths().into_iter();
        conflicts.extend(paths.map(|path| Conflict { manager: described.clone(), path }));
        manager.set = manager.set.difference(&taken).difference(&changes.removed);
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    write(&mut merged, managers);
    Ok(merged)
}

/// The part of an object that managers own: without what the server sets, and without what the path of the
/// write does not change.
fn managed_part(object: &Value, who: &Who) -> Value {
    const SERVERS: [&str; 10] = [
        "name",
        "namespace",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut part = object.clone();
    let Some(fields) = part.as_object_mut() else {
        return part;
    };
    let kept: fn(&str) -> bool = match who.subresource {
        "" => |name| !matches!(name, "apiVersion" | "kind" | "status"),
        _ => |name| matches!(name, "metadata" | "status"),
    };
    fields.retain(|name, _| kept(name));
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.retain(|name, _| !SERVERS.contains(&name.as_str()));
        if metadata.is_empty() {
            fields.remove("metadata");
        }
    }
    part
}

fn read(object: &Value) -> Vec<Manager> {
    let entries = object["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().filter_map(read_entry).collect()
}

fn read_entry(entry: &Value) -> Option<Manager> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    Some(Manager {
        name: text("manager"),
        operation: match entry["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        },
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: text("time"),
        set: Set::from_json(&entry["fieldsV1"]),
    })
}

fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.set.is_empty());
    fold_oldest(&mut managers);
    // As upstream orders them: appliers first, then by time and name.
    managers.sort_by(|a, b| {
        let rank = |m: &Manager| (m.operation == Operation::Update, m.time.clone(), m.name.clone());
        rank(a).cmp(&rank(b))
    });
    let entries: Vec<Value> = managers.iter().map(entry).collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), entries.into());
        }
    }
}

fn entry(manager: &Manager) -> Value {
    let mut entry = json!({
        "manager": manager.name,
        "operation": match manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        },
        "apiVersion": manager.api_version,
        "time": manager.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": manager.set.to_json(),
    });
    if !manager.subresource.is_empty() {
        entry["subresource"] = manager.subresource.clone().into();
    }
    entry
}

fn fold_oldest(managers: &mut Vec<Manager>) {
    let mut updaters: Vec<usize> = (0..managers.len())
        .filter(|n| managers[*n].operation == Operation::Update && managers[*n].subresource.is_empty())
        .collect();
    if updaters.len() <= MAX_UPDATERS {
        return;
    }
    updaters.sort_by(|a, b| managers[*a].time.cmp(&managers[*b].time));
    updaters.truncate(updaters.len() - MAX_UPDATERS + 1);
    let mut folded = managers[updaters[updaters.len() - 1]].clone();
    folded.name = ANCIENT.into();
    for at in &updaters {
        folded.set.extend(managers[*at].set.clone());
    }
    updaters.sort_unstable();
    for at in updaters.into_iter().rev() {
        managers.remove(at);
    }
    managers.push(folded);
}
