//! `podd version`.

use serde_json::json;

use crate::cli::{Output, Version};
use crate::config::Settings;
use crate::print::say;
use crate::{client, print};

pub(crate) async fn run(args: Version, settings: &Settings) -> anyhow::Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let server = if args.client {
        None
    } else {
        match client::connect_running(settings).await {
            Ok(client) => Some(client.apiserver_version().await.map_err(super::api_error)?),
            Err(_) => None,
        }
    };
    if let Some(output @ (Output::Json | Output::Yaml)) = args.output {
        let mut value = json!({"clientVersion": {"version": own}});
        if let Some(server) = &server {
            value["serverVersion"] = serde_json::to_value(server)?;
        }
        return print::value(&value, output == Output::Json);
    }
    say!("podd: {own}");
    match server {
        Some(server) => say!("API: {}", server.git_version),
        None if args.client => {}
        None => say!("API: no agent runs"),
    }
    Ok(())
}
