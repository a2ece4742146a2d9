//! `podd exec`: a command in a container, with its own exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams};

use super::session::{RawTerminal, converse};
use super::{api_error, pod_name};
use crate::cli::Exec;
use crate::client;
use crate::config::Settings;

pub(crate) async fn run(args: Exec, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = client::connect(settings).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace.namespace);
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        eprintln!("warning: standard input is no terminal; going on without one");
    }
    let name = pod_name(&args.pod)?;
    let params = AttachParams {
        container: super::container_of(&pods, name, args.container).await?,
        stdin: args.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        ..Default::default()
    };
    let process = pods.exec(name, &args.command, &params).await.map_err(api_error)?;
    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let status = converse(process, tty).await?;
    exit_code(status)
}

/// The exit code that a status carries: the command's own, or 1 with a message.
fn exit_code(status: Option<Status>) -> anyhow::Result<ExitCode> {
    let Some(status) = status else { anyhow::bail!("the connection ended before the command did") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
    let code = causes
        .iter()
        .find(|c| c.reason.as_deref() == Some("ExitCode"))
        .and_then(|c| c.message.as_ref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => anyhow::bail!("{}", status.message.unwrap_or_else(|| "the command could not be run".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        let status = |value| serde_json::from_value::<Status>(value).ok();
        let code = |value| exit_code(status(value)).map(|c| format!("{c:?}"));
        assert_eq!(code(json!({"status": "Success"})).unwrap(), format!("{:?}", ExitCode::SUCCESS));
        let failure = json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "42"}]}});
        assert_eq!(code(failure).unwrap(), format!("{:?}", ExitCode::from(42)));
        assert!(
            code(json!({"status": "Failure", "message": "no such container"}))
                .unwrap_err()
                .to_string()
                .contains("no such")
        );
        assert!(exit_code(None).is_err());
    }
}
