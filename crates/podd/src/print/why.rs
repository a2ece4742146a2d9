//! The story of a pod, from what the API says of it: first the answer in one sentence, then what it rests on. Values in,
//! text out.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use super::table::{age, plain};

/// The last lines of a container's log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) container: String,
    /// Of the instance before the last one.
    pub(crate) previous: bool,
    pub(crate) text: String,
}

/// A process that ends sooner than this, in milliseconds, ends right after its start.
const AT_ONCE_MS: i64 = 2_000;
/// Waiting reasons that say no more than that something else is going on.
const PENDING: &[&str] = &["ContainerCreating", "PodInitializing"];

/// One container as its spec and its status have it.
struct Container<'a> {
    spec: &'a Value,
    status: &'a Value,
    init: bool,
}

impl<'a> Container<'a> {
    fn name(&self) -> &'a str {
        self.spec["name"].as_str().unwrap_or("?")
    }

    fn title(&self) -> String {
        format!("{}container {}", if self.init { "init " } else { "" }, self.name())
    }

    fn state(&self, name: &str) -> Option<&'a Value> {
        self.status["state"].get(name).filter(|state| !state.is_null())
    }

    /// The end of the last instance that has ended.
    fn exit(&self) -> Option<&'a Value> {
        let last = self.status["lastState"].get("terminated").filter(|state| !state.is_null());
        self.state("terminated").or(last)
    }

    fn restarts(&self) -> i64 {
        self.status["restartCount"].as_i64().unwrap_or(0)
    }

    /// Ended as an init container should, or once and for all and well.
    fn is_done(&self) -> bool {
        self.state("terminated").is_some_and(|end| end["exitCode"] == 0)
    }

    fn is_fine(&self) -> bool {
        self.is_done()
            || (self.state("running").is_some() && (self.status["ready"] == true || self.init && !self.is_sidecar()))
    }

    fn is_sidecar(&self) -> bool {
        self.init && self.spec["restartPolicy"] == "Always"
    }
}

fn containers(pod: &Value) -> Vec<Container<'_>> {
    let lists = [("initContainers", "initContainerStatuses", true), ("containers", "containerStatuses", false)];
    let mut found = Vec::new();
    for (specs, statuses, init) in lists {
        for spec in pod["spec"][specs].as_array().into_iter().flatten() {
            let status = pod["status"][statuses].as_array().into_iter().flatten().find(|s| s["name"] == spec["name"]);
            found.push(Container { spec, status: status.unwrap_or(&Value::Null), init });
        }
    }
    found
}

/// The containers whose logs belong to the story: those that are not as they should be, or were not.
pub(crate) fn troubled(pod: &Value) -> Vec<String> {
    let seen = containers(pod).into_iter().filter(|c| {
        let failed = c.exit().is_some_and(|end| end["exitCode"] != 0);
        failed || (c.state("running").is_some() && !c.is_fine())
    });
    seen.map(|c| c.name().to_owned()).collect()
}

/// The whole story.
pub(crate) fn story(pod: &Value, events: &[Value], logs: &[Log], now: Timestamp) -> String {
    let mut out = format!("{}\n", headline(pod, events, now));
    conditions(pod, &mut out);
    out.push('\n');
    for container in containers(pod) {
        told(&container, events, now, &mut out);
    }
    let list = self::events(events, now);
    if !list.is_empty() {
        let _ = write!(out, "\n{list}");
    }
    for log in worth_telling(pod, logs) {
        let which = if log.previous { ", the instance before" } else { "" };
        let _ = writeln!(out, "\nLog of container {}{which}, last lines:", log.container);
        for line in log.text.lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

/// A container that waits for its restart has the same log as current and as previous one; it is told once.
fn worth_telling<'a>(pod: &Value, logs: &'a [Log]) -> Vec<&'a Log> {
    let waits = |name: &str| containers(pod).iter().any(|c| c.name() == name && c.state("running").is_none());
    let same = |log: &Log| logs.iter().any(|l| !l.previous && l.container == log.container && l.text == log.text);
    logs.iter().filter(|log| !(log.previous && waits(&log.container) && same(log))).collect()
}

/// The answer, in one sentence.
fn headline(pod: &Value, events: &[Value], now: Timestamp) -> String {
    let (meta, status) = (&pod["metadata"], &pod["status"]);
    let who = format!("pod/{}", meta["name"].as_str().unwrap_or("?"));
    let all = containers(pod);
    if let Some(by) = meta["deletionTimestamp"].as_str() {
        let running: Vec<&str> = all.iter().filter(|c| c.state("running").is_some()).map(Container::name).collect();
        let what = if running.is_empty() {
            "its containers have ended".into()
        } else {
            format!("{} still running", running.join(", "))
        };
        return format!("{who} is being deleted: {what}; it is killed {}", until(by.parse().ok(), now));
    }
    let reason = reason_and_message(status);
    match status["phase"].as_str().unwrap_or("Unknown") {
        "Succeeded" => return format!("{who} has succeeded: every container ended with code 0"),
        "Failed" => {
            let why = reason.or_else(|| all.iter().find(|c| !c.is_done() && c.exit().is_some()).map(ending));
            return format!("{who} has failed: {}", why.unwrap_or_else(|| "nothing says why".into()));
        }
        _ => {}
    }
    if is_ready(pod) {
        let restarted = all.iter().filter(|c| c.restarts() > 0).max_by_key(|c| c.restarts());
        let history = restarted.map_or(String::new(), |c| {
            let end = c.exit().map_or(String::new(), |end| format!(" (it {})", exit_text(c, Some(end))));
            format!("; {} was restarted {}{end}", c.title(), times(c.restarts()))
        });
        return format!("{who} is Ready{history}");
    }
    let blamed = all.iter().find_map(|c| blame(c, events, now));
    let why = blamed.or(reason).or_else(|| condition_text(pod)).or_else(|| last_warning(events, None));
    match why {
        Some(why) => format!("{who} is not Ready: {why}"),
        None => format!("{who} is not Ready yet: nothing has gone wrong so far"),
    }
}

/// What one container does to keep the pod from being Ready.
fn blame(c: &Container<'_>, events: &[Value], now: Timestamp) -> Option<String> {
    if c.is_done() || c.is_fine() && !c.init {
        return None;
    }
    if let Some(waiting) = c.state("waiting") {
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        return match reason {
            "CrashLoopBackOff" => Some(format!("{}; next try {}", ending(c), until(next_try(c, message), now))),
            "" => None,
            _ if PENDING.contains(&reason) => {
                // An init container before it has the word; what holds up all of them has come as an event.
                last_warning(
                    events,
                    Some(&["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedScheduling"]),
                )
            }
            _ if reason.contains("Image") => {
                let image = c.spec["image"].as_str().unwrap_or("?");
                Some(format!("the image {image} of {} cannot be had: {reason}: {message}", c.title()))
            }
            _ => Some(format!("{} cannot be started: {reason}: {message}", c.title())),
        };
    }
    if c.state("terminated").is_some() {
        return Some(ending(c));
    }
    let running = c.state("running")?;
    let since = age(running["startedAt"].as_str(), now);
    if c.init && !c.is_sidecar() {
        return Some(format!("{} is still running, for {since}", c.title()));
    }
    if c.is_fine() {
        return None;
    }
    let kind = if c.status["started"] == false { "startup" } else { "readiness" };
    let seen = match probe_output(c, events) {
        Some(output) => format!(": {output}"),
        None if c.spec[format!("{kind}Probe")].is_null() => return Some(format!("{} has just started", c.title())),
        None => " so far".into(),
    };
    Some(format!("{} is running for {since}, but its {kind} probe has not passed{seen}", c.title()))
}

/// `container app exits with code 1 right after its start (5 times)`.
fn ending(c: &Container<'_>) -> String {
    let ended = c.restarts() + i64::from(c.state("running").is_none());
    let often = if ended > 1 { format!(" ({})", times(ended)) } else { String::new() };
    format!("{} {}{often}", c.title(), exit_text(c, c.exit()))
}

fn times(count: i64) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}

/// How an instance ended, and how long after its start.
fn exit_text(c: &Container<'_>, end: Option<&Value>) -> String {
    let Some(end) = end else { return "has ended".into() };
    let code = end["exitCode"].as_i64().unwrap_or(0);
    let how = match (end["reason"].as_str(), end["signal"].as_i64().filter(|n| *n != 0)) {
        (Some("OOMKilled"), _) => match c.spec["resources"]["limits"]["memory"].as_str() {
            Some(limit) => format!("was killed for memory beyond its limit of {limit} (OOMKilled, code {code})"),
            None => format!("was killed since memory ran out (OOMKilled, code {code})"),
        },
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some("Error" | "Completed") | None, None) => format!("exits with code {code}{}", meaning(code)),
        (Some(reason), None) => format!("exits with code {code} ({reason})"),
    };
    let time = |field: &str| end[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let lasted = match (time("startedAt"), time("finishedAt")) {
        (Some(start), Some(finish)) if start > Timestamp::UNIX_EPOCH => {
            match finish.as_millisecond() - start.as_millisecond() {
                millis if millis < AT_ONCE_MS => " right after its start".into(),
                millis => format!(", {} after its start", seconds(millis / 1000)),
            }
        }
        _ => String::new(),
    };
    let message = end["message"].as_str().map(str::trim).filter(|m| !m.is_empty());
    let message = message.and_then(|m| m.lines().last()).map_or(String::new(), |m| format!(", saying \"{m}\""));
    format!("{how}{lasted}{message}")
}

/// What a shell or the kernel says by an exit code.
fn meaning(code: i64) -> &'static str {
    match code {
        126 => " (the program cannot be executed)",
        127 => " (a program was not found)",
        134 => " (SIGABRT)",
        137 => " (SIGKILL)",
        139 => " (SIGSEGV)",
        143 => " (SIGTERM)",
        _ => "",
    }
}

/// When a container that crashes is started again: its end, and the back-off that the message names.
fn next_try(c: &Container<'_>, message: &str) -> Option<Timestamp> {
    let finished: Timestamp = c.exit()?["finishedAt"].as_str()?.parse().ok()?;
    let wait = message.strip_prefix("back-off ")?.split(' ').next()?;
    let wait = crate::cli::duration(wait).ok()?;
    finished.checked_add(jiff::SignedDuration::try_from(wait).ok()?).ok()
}

/// `in 42 s`, `now`.
fn until(at: Option<Timestamp>, now: Timestamp) -> String {
    match at.map(|at| (at.as_millisecond() - now.as_millisecond() + 999) / 1000) {
        None => "soon".into(),
        Some(left) if left <= 0 => "now".into(),
        Some(left) => format!("in {}", seconds(left)),
    }
}

fn seconds(count: i64) -> String {
    match count {
        0..120 => format!("{count} s"),
        120..7200 => format!("{} min", count / 60),
        _ => format!("{} h", count / 3600),
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// `Evicted: The node was low on …`
fn reason_and_message(value: &Value) -> Option<String> {
    let parts: Vec<&str> =
        ["reason", "message"].iter().filter_map(|f| value[*f].as_str().filter(|t| !t.is_empty())).collect();
    (!parts.is_empty()).then(|| parts.join(": "))
}

/// A condition that says more than that containers are not ready.
fn condition_text(pod: &Value) -> Option<String> {
    let list = pod["status"]["conditions"].as_array()?;
    let telling = |c: &&Value| {
        c["status"] != "True"
            && c["message"].as_str().is_some_and(|m| !m.is_empty() && !m.starts_with("containers with "))
    };
    list.iter().find(telling).and_then(reason_and_message)
}

/// The newest warning, of these reasons.
fn last_warning(events: &[Value], reasons: Option<&[&str]>) -> Option<String> {
    let found = in_order(events).into_iter().rev().find(|e| {
        e["type"] == "Warning" && reasons.is_none_or(|all| e["reason"].as_str().is_some_and(|r| all.contains(&r)))
    })?;
    reason_and_message(found)
}

/// What the last failed probe of a container put out.
fn probe_output(c: &Container<'_>, events: &[Value]) -> Option<String> {
    let path = format!("{{{}}}", c.name());
    let found = in_order(events).into_iter().rev().find(|e| {
        e["reason"] == "Unhealthy" && e["involvedObject"]["fieldPath"].as_str().is_none_or(|p| p.ends_with(&path))
    })?;
    found["message"].as_str().map(|message| message.trim().replace('\n', " "))
}

fn conditions(pod: &Value, out: &mut String) {
    for condition in pod["status"]["conditions"].as_array().into_iter().flatten().filter(|c| c["status"] != "True") {
        let why = reason_and_message(condition).map_or(String::new(), |why| format!(": {why}"));
        let _ = writeln!(out, "  {} is {}{why}", text(&condition["type"]), text(&condition["status"]));
    }
}

/// The facts of one container.
fn told(c: &Container<'_>, events: &[Value], now: Timestamp, out: &mut String) {
    let state = match (c.state("running"), c.state("waiting"), c.state("terminated")) {
        (Some(running), ..) => {
            let ready = if c.status["ready"] == true { "ready" } else { "not ready" };
            format!("running for {}, {ready}", age(running["startedAt"].as_str(), now))
        }
        (_, Some(waiting), _) => format!("waiting: {}", reason_and_message(waiting).unwrap_or_default()),
        (.., Some(_)) => format!("ended: it {}", exit_text(c, c.exit())),
        _ => "not started yet".into(),
    };
    let _ = writeln!(out, "{}: {state}", c.title());
    if c.restarts() > 0 {
        let _ = writeln!(out, "  restarted {}", times(c.restarts()));
    }
    if let Some(end) = c.exit().filter(|_| c.state("terminated").is_none()) {
        let when = age(end["finishedAt"].as_str(), now);
        let _ = writeln!(out, "  the instance before {}, {when} ago", exit_text(c, Some(end)));
    }
    if let Some(output) = probe_output(c, events).filter(|_| !c.is_done()) {
        let _ = writeln!(out, "  last failed probe: {output}");
    }
}

/// The events in the order in which they last came; those that say the same are one.
pub(crate) fn events(events: &[Value], now: Timestamp) -> String {
    let mut rows: Vec<(Vec<&Value>, i64)> = Vec::new();
    for event in in_order(events) {
        let count = event["count"].as_i64().unwrap_or(1).max(1);
        let same =
            |(all, _): &&mut (Vec<&Value>, i64)| ["type", "reason", "message"].iter().all(|f| all[0][*f] == event[*f]);
        match rows.iter_mut().find(same) {
            Some((all, total)) => {
                all.push(event);
                *total += count;
            }
            None => rows.push((vec![event], count)),
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by_key(|(all, _)| all.last().map(|e| last_seen(e).to_owned()));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|(all, count)| {
            let newest = all[all.len() - 1];
            let often = if *count > 1 { format!(" (x{count})") } else { String::new() };
            vec![
                format!("  {} ago{often}", age(Some(last_seen(newest)), now)),
                text(&newest["reason"]).to_owned(),
                text(&newest["message"]).trim().replace('\n', " "),
            ]
        })
        .collect();
    format!("Events:\n{}", plain(&cells))
}

fn in_order(events: &[Value]) -> Vec<&Value> {
    let mut sorted: Vec<&Value> = events.iter().collect();
    sorted.sort_by_key(|event| last_seen(event));
    sorted
}

fn last_seen(event: &Value) -> &str {
    event["lastTimestamp"].as_str().or(event["eventTime"].as_str()).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
