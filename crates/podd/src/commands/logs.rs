//! `podd logs`.

use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use tokio::io::AsyncWriteExt as _;

use super::{api_error, pod_name};
use crate::cli::Logs;
use crate::client;
use crate::config::Settings;

/// How much is copied at a time, in bytes.
const CHUNK: usize = 64 << 10;

pub(crate) async fn run(args: Logs, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace.namespace);
    let name = pod_name(&args.pod)?;
    let params = LogParams {
        container: super::container_of(&pods, name, args.container_flag.or(args.container)).await?,
        follow: args.follow,
        previous: args.previous,
        tail_lines: (args.tail >= 0).then_some(args.tail),
        timestamps: args.timestamps,
        since_seconds: args.since.map(|d| i64::try_from(d.as_secs().max(1)).unwrap_or(i64::MAX)),
        limit_bytes: args.limit_bytes,
        ..Default::default()
    };
    print(&pods, name, &params).await
}

/// Copies the log of a container to standard output.
pub(super) async fn print(pods: &Api<Pod>, name: &str, params: &LogParams) -> anyhow::Result<()> {
    let mut log = std::pin::pin!(pods.log_stream(name, params).await.map_err(api_error)?);
    let mut out = tokio::io::stdout();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = log.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        if let Err(error) = out.write_all(&buffer[..read]).await {
            // `podd logs | head`: the reader has seen enough.
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                return Ok(());
            }
            return Err(error.into());
        }
        out.flush().await?;
    }
    Ok(())
}
