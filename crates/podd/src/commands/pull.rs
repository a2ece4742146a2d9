//! `podd pull`: the agent pulls, and tells how far it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use axum::body::Body;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::images::bytes;
use crate::cli::Pull;
use crate::client::own;
use crate::config::Settings;
use crate::print::say;

/// How often a turning sign turns.
pub(super) const TICK: Duration = Duration::from_millis(100);

pub(crate) async fn run(args: Pull, settings: &Settings) -> anyhow::Result<()> {
    if args.creds.as_deref().is_some_and(|creds| !creds.contains(':')) {
        bail!("--creds: write USER:PASSWORD");
    }
    let socket = own::agent_socket(settings).await?;
    for image in &args.images {
        let bar = if args.quiet { ProgressBar::hidden() } else { spinner(&format!("pulling {image}")) };
        let answer = pull(&socket, image, args.creds.as_deref(), &bar).await;
        bar.finish_and_clear();
        say!("{}", answer?);
    }
    Ok(())
}

/// Asks the agent to pull, shows how far it has come, and answers the image's id.
async fn pull(socket: &Path, image: &str, credentials: Option<&str>, bar: &ProgressBar) -> anyhow::Result<String> {
    let body = serde_json::to_vec(&json!({"image": image, "credentials": credentials}))?;
    let mut lines = own::post(socket, "/podd/v1/pull", "application/json", Body::from(body)).await?;
    let mut layers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    while let Some(line) = lines.next().await? {
        if let Some(id) = line["id"].as_str() {
            return Ok(id.to_owned());
        }
        let count = |field: &str| line[field].as_u64().unwrap_or(0);
        layers.insert(line["layer"].as_str().unwrap_or_default().to_owned(), (count("done"), count("total")));
        let (done, total) = layers.values().fold((0, 0), |(d, t), (done, total)| (d + done, t + total));
        bar.set_message(format!("pulling {image}: {} of {}", bytes(done), bytes(total)));
    }
    bail!("the agent ended before the image {image} was there")
}

/// A sign on the terminal that work goes on; nothing where there is no terminal.
pub(super) fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message.to_owned());
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(TICK);
    bar
}
