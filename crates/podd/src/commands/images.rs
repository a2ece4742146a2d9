//! `podd pull`, `images`, `rmi` over the agent's CRI socket, `load` over its own route.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Request;
use http_body_util::BodyExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use kube::client::Body;
use podd_cri::ImageService as _;
use podd_cri::v1::{Image, ImageSpec, ListImagesRequest, RemoveImageRequest};
use serde_json::{Value, json};

use crate::cli::{Images, Load, Output, Pull, Rmi};
use crate::client;
use crate::config::Settings;
use crate::print;
use crate::print::say;

/// How many characters of an image id a table shows.
const SHORT_ID: usize = 12;

async fn cri(settings: &Settings) -> anyhow::Result<podd_cri::client::Client> {
    client::connect(settings).await?;
    let socket = settings.cri_socket();
    podd_cri::client::connect(&socket).await.with_context(|| format!("connect to {}", socket.display()))
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.into(), user_specified_image: image.into(), ..Default::default() })
}

pub(crate) async fn pull(args: Pull, settings: &Settings) -> anyhow::Result<()> {
    if args.creds.as_deref().is_some_and(|creds| !creds.contains(':')) {
        bail!("--creds: write USER:PASSWORD");
    }
    let client = client::connect(settings).await?;
    for image in &args.images {
        let bar = if args.quiet { ProgressBar::hidden() } else { spinner(image) };
        let answer = pull_one(&client, image, args.creds.as_deref(), &bar).await;
        bar.finish_and_clear();
        say!("{}", answer?);
    }
    Ok(())
}

/// Asks the agent to pull, shows how far it has come, and answers the image's id.
async fn pull_one(
    client: &kube::Client,
    image: &str,
    credentials: Option<&str>,
    bar: &ProgressBar,
) -> anyhow::Result<String> {
    let body = serde_json::to_vec(&json!({"image": image, "credentials": credentials}))?;
    let request = Request::post("/podd/v1/pull")
        .header("content-type", "application/json")
        .body(Body::from(body))
        .context("build the request")?;
    let response = client.send(request).await.map_err(super::api_error)?;
    let ok = response.status().is_success();
    let mut body = response.into_body();
    if !ok {
        let text = body.collect().await.context("read the answer")?.to_bytes();
        bail!("{}", String::from_utf8_lossy(&text));
    }
    let mut layers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        pending.extend_from_slice(frame.context("read the answer")?.data_ref().map_or(&[][..], |data| &data[..]));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Value = serde_json::from_slice(&pending[..end]).context("read the answer")?;
            pending.drain(..=end);
            if let Some(id) = line["id"].as_str() {
                return Ok(id.to_owned());
            }
            if let Some(error) = line["error"].as_str() {
                bail!("{error}");
            }
            let count = |field: &str| line[field].as_u64().unwrap_or(0);
            layers.insert(line["layer"].as_str().unwrap_or_default().to_owned(), (count("done"), count("total")));
            let (done, total) = layers.values().fold((0, 0), |(d, t), (done, total)| (d + done, t + total));
            bar.set_message(format!("pulling {image}: {} of {}", bytes(done), bytes(total)));
        }
    }
    bail!("the agent ended before the image {image} was there")
}

fn spinner(image: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(format!("pulling {image}"));
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

pub(crate) async fn list(args: Images, settings: &Settings) -> anyhow::Result<()> {
    let cri = cri(settings).await?;
    let answer = cri
        .list_images(tonic::Request::new(ListImagesRequest::default()))
        .await
        .map_err(|s| anyhow::anyhow!("{}", s.message()))?;
    let mut images = answer.into_inner().images;
    if let Some(name) = &args.filter {
        images.retain(|image| image.repo_tags.iter().any(|tag| tag.contains(name.as_str())));
    }
    images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags));
    if let Some(output @ (Output::Json | Output::Yaml)) = args.output {
        let list: Vec<Value> = images.iter().map(|i| json!({"id": i.id, "repoTags": i.repo_tags, "repoDigests": i.repo_digests, "size": i.size.to_string()})).collect();
        return print::value(&json!({"images": list}), output == Output::Json);
    }
    if args.quiet {
        for image in &images {
            say!("{}", image.id);
        }
        return Ok(());
    }
    print::text(&print::plain(&rows(&images)));
    Ok(())
}

fn rows(images: &[Image]) -> Vec<Vec<String>> {
    let mut rows = vec![["REPOSITORY", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned).to_vec()];
    for image in images {
        let hex = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let id = hex.get(..SHORT_ID).unwrap_or(hex).to_owned();
        let size = bytes(image.size);
        let named: Vec<(String, String)> = image
            .repo_tags
            .iter()
            .map(|tag| {
                tag.rsplit_once(':').map_or((tag.clone(), String::new()), |(name, tag)| (name.into(), tag.into()))
            })
            .collect();
        if named.is_empty() {
            let name = image.repo_digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(name, _)| name);
            rows.push(vec![name.into(), "<none>".into(), id.clone(), size.clone()]);
        }
        rows.extend(named.into_iter().map(|(name, tag)| vec![name, tag, id.clone(), size.clone()]));
    }
    rows
}

pub(crate) async fn remove(args: Rmi, settings: &Settings) -> anyhow::Result<()> {
    let cri = cri(settings).await?;
    for image in &args.images {
        let status = cri
            .image_status(tonic::Request::new(podd_cri::v1::ImageStatusRequest { image: spec(image), verbose: false }))
            .await
            .map_err(|s| anyhow::anyhow!("{}", s.message()))?;
        let Some(found) = status.into_inner().image else { bail!("there is no image {image}") };
        cri.remove_image(tonic::Request::new(RemoveImageRequest { image: spec(image) }))
            .await
            .map_err(|s| anyhow::anyhow!("{}", s.message()))?;
        for tag in &found.repo_tags {
            say!("untagged {tag}");
        }
        say!("deleted {}", found.id);
    }
    Ok(())
}

pub(crate) async fn load(args: Load, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let request = if args.input == "-" {
        let (path, keep) = spool_stdin(settings)?;
        let request = load_request(&path);
        let answer = send_load(&client, request?).await;
        drop(keep);
        return answer;
    } else {
        let path = std::fs::canonicalize(&args.input).with_context(|| format!("open {}", args.input))?;
        load_request(&path)?
    };
    send_load(&client, request).await
}

/// The agent runs on this machine and reads the archive itself.
fn load_request(path: &std::path::Path) -> anyhow::Result<Request<Body>> {
    let body = serde_json::to_vec(&json!({"path": path}))?;
    Request::post("/podd/v1/load")
        .header("content-type", "application/json")
        .body(Body::from(body))
        .context("build the request")
}

async fn send_load(client: &kube::Client, request: Request<Body>) -> anyhow::Result<()> {
    let response = client.send(request).await.map_err(super::api_error)?;
    let ok = response.status().is_success();
    let body = response.into_body().collect().await.context("read the answer")?.to_bytes();
    if !ok {
        bail!("{}", String::from_utf8_lossy(&body));
    }
    for name in serde_json::from_slice::<Vec<String>>(&body).context("read the answer")? {
        say!("loaded {name}");
    }
    Ok(())
}

/// A temporary file that goes with this value.
struct Spool(std::path::PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn spool_stdin(settings: &Settings) -> anyhow::Result<(std::path::PathBuf, Spool)> {
    let path = settings.root.join(format!("load-{}.tar", std::process::id()));
    let mut file = std::fs::File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
    let spool = Spool(path.clone());
    std::io::copy(&mut std::io::stdin().take(u64::MAX), &mut file).context("read standard input")?;
    Ok((path, spool))
}

/// A size as people read it.
fn bytes(count: u64) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_powers_of_a_thousand() {
        for (count, want) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (7_340_032_000, "7.3 GB")]
        {
            assert_eq!(bytes(count), want);
        }
    }

    #[test]
    fn an_image_has_a_row_for_each_tag() {
        let image = Image {
            id: "sha256:0123456789abcdef".into(),
            repo_tags: vec!["localhost:5000/a:1".into(), "b:2".into()],
            size: 5,
            ..Default::default()
        };
        let rows = rows(&[image]);
        assert_eq!(rows[1], ["localhost:5000/a", "1", "0123456789ab", "5 B"]);
        assert_eq!(rows[2], ["b", "2", "0123456789ab", "5 B"]);
    }
}
