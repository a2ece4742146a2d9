//! One probe, again and again: the sleep, the tries, the event, the result.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use podd_cri::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::{Subject, Told, grpc, http, period, reach, schedule};
use crate::{events::Severity, worker::expand};

/// How often a probe is tried that cannot be made at all.
const TRIES: u32 = 3;
/// What is kept of a command's output.
const OUTPUT_MAX: usize = 10 << 10;

/// What a probe came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It succeeded.
    Success,
    /// It succeeded, but somebody may want to know this.
    Warning(String),
    /// It failed, for this reason.
    Failure(String),
}

/// Makes a probe whenever it is due until it `ends`.
pub(super) async fn run(subject: Subject, first: Timestamp, ends: CancellationToken, tell: mpsc::Sender<Told>) {
    let (clock, period) = (subject.services.clock, period(&subject.probe));
    let mut target = reach::Inside::new(subject.host_network);
    let mut due = first;
    loop {
        tokio::select! {
            biased;
            () = ends.cancelled() => return,
            () = tokio::time::sleep(clock.until(due)) => {}
        }
        let outcome = tries(&subject, &mut target, &ends).await;
        if ends.is_cancelled() {
            return;
        }
        report(&subject, &outcome);
        if let Ok(verdict) = outcome {
            let told = Told {
                container: subject.watch.container.clone(),
                id: subject.watch.id.clone(),
                kind: subject.watch.kind,
                success: !matches!(verdict, Verdict::Failure(_)),
            };
            if tell.send(told).await.is_err() {
                return;
            }
        }
        due = schedule::next(due, period, clock.now());
    }
}

/// A result, or why there is none, which then counts as nothing.
async fn tries(subject: &Subject, target: &mut reach::Inside, ends: &CancellationToken) -> Result<Verdict, String> {
    let mut error = String::new();
    for _ in 0..TRIES {
        match once(subject, target).await {
            Ok(verdict) => return Ok(verdict),
            Err(why) => error = why,
        }
        if ends.is_cancelled() {
            break;
        }
    }
    Err(error)
}

async fn once(subject: &Subject, inside: &mut reach::Inside) -> Result<Verdict, String> {
    let probe = &subject.probe;
    let seconds = probe.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(1);
    let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    if let Some(action) = &probe.exec {
        return exec(subject, action.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let host = reach::host(action.host.as_deref(), subject.address)?;
        let reach = inside.reach(&subject.services, &subject.watch.id, &host).await?;
        let get = http::Get::of(action, &host, &subject.container, "kube-probe/1.36", reach)?;
        return Ok(http::judge(get.send(timeout).await?));
    }
    if let Some(action) = &probe.tcp_socket {
        let host = reach::host(action.host.as_deref(), subject.address)?;
        let port = reach::port(&action.port, &subject.container)?;
        let reach = inside.reach(&subject.services, &subject.watch.id, &host).await?;
        return Ok(match tokio::time::timeout(timeout, reach.connect(&host, port)).await {
            Ok(Ok(_)) => Verdict::Success,
            Ok(Err(error)) => Verdict::Failure(error),
            Err(_) => Verdict::Failure(format!("dial tcp {}: i/o timeout", reach::join(&host, port))),
        });
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
        let own = subject.address.ok_or(reach::NO_ADDRESS)?;
        return Ok(grpc::check(own, port, action.service.as_deref().unwrap_or_default(), timeout).await);
    }
    Err(format!("missing probe handler for {}", subject.container.name))
}

/// A command in the container. One that takes too long is killed by the runtime; the container is not.
async fn exec(subject: &Subject, command: &[String], timeout: Duration) -> Result<Verdict, String> {
    // Only what the manifest says in so many words.
    let known: BTreeMap<String, String> = subject
        .container
        .env
        .iter()
        .flatten()
        .map(|env| (env.name.clone(), env.value.clone().unwrap_or_default()))
        .collect();
    let cmd: Vec<String> = command.iter().map(|word| expand(word, &known)).collect();
    let shown = cmd.join(" ");
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    let request = v1::ExecSyncRequest { container_id: subject.watch.id.clone(), cmd, timeout: seconds };
    let deadline = timeout.saturating_add(subject.services.settings.call_deadline);
    let call = subject.services.runtime.exec_sync(Request::new(request));
    match tokio::time::timeout(deadline, call).await {
        Err(_) => Err(format!("the runtime did not answer within {} s", deadline.as_secs())),
        Ok(Err(status)) if status.code() == Code::DeadlineExceeded => {
            Ok(Verdict::Failure(format!("command timed out: \"{shown}\" timed out after {}s", timeout.as_secs())))
        }
        Ok(Err(status)) => Err(status.message().to_owned()),
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            if answer.exit_code == 0 {
                return Ok(Verdict::Success);
            }
            let mut output = answer.stdout;
            output.extend(answer.stderr);
            output.truncate(OUTPUT_MAX);
            Ok(Verdict::Failure(String::from_utf8_lossy(&output).into_owned()))
        }
    }
}

fn report(subject: &Subject, outcome: &Result<Verdict, String>) {
    let what = subject.watch.kind.word();
    let (reason, message) = match outcome {
        Ok(Verdict::Success) => return,
        Ok(Verdict::Warning(output)) => ("ProbeWarning", format!("{what} probe warning: {output}")),
        Ok(Verdict::Failure(output)) => ("Unhealthy", format!("{what} probe failed: {output}")),
        Err(error) => ("Unhealthy", format!("{what} probe errored and resulted in unknown state: {error}")),
    };
    tracing::debug!(container = subject.watch.container, reason, message, "probe");
    subject.services.recorder.container(&subject.pod, &subject.watch.container, Severity::Warning, reason, message);
}
