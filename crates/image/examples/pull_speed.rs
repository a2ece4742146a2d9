//! How fast an image is pulled and unpacked, against `tar xzf` on the same bytes.
//!
//! ```text
//! cargo run --release -p podd-image --example pull_speed -- [directory to pack, /usr/lib by default]...
//! ```
//!
//! Each directory becomes one layer, served over HTTP on loopback by this very process. Every figure is the best of
//! three runs, in MB/s of uncompressed bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use podd_image::{Config, Credentials, Digest, Reference, Store};
use serde_json::json;

const RUNS: usize = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let mut directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if directories.is_empty() {
        directories.push(PathBuf::from("/usr/lib"));
    }
    let work = tempfile::tempdir()?;
    let layers = directories.iter().enumerate().map(|(number, directory)| pack(directory, work.path(), number));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let plain: u64 = layers.iter().map(|layer| layer.plain).sum();
    let packed: u64 = layers.iter().map(|layer| layer.bytes.len() as u64).sum();
    println!("{} layers, {} MB packed, {} MB plain", layers.len(), packed / 1_000_000, plain / 1_000_000);

    let name = serve(&layers).await?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..RUNS {
        theirs.push(untar(&layers, work.path())?);
        ours.push(pull(&name, work.path()).await?);
    }
    let speed = |name: &str, times: &[Duration]| {
        let best = times.iter().min().copied().unwrap_or_default();
        println!("{name:<24} {:>6.2} s {:>7.0} MB/s", best.as_secs_f64(), plain as f64 / 1e6 / best.as_secs_f64());
    };
    speed("tar xzf", &theirs);
    speed("pull, verify and unpack", &ours);
    Ok(())
}

struct Layer {
    file: PathBuf,
    bytes: Bytes,
    diff_id: Digest,
    plain: u64,
}

fn pack(directory: &Path, work: &Path, number: usize) -> Result<Layer> {
    let tar = work.join(format!("{number}.tar"));
    let status = Command::new("tar").arg("cf").arg(&tar).arg("-C").arg(directory).arg(".").status()?;
    ensure!(status.success(), "tar cannot pack {}", directory.display());
    let plain = fs::read(&tar)?;
    let status = Command::new("gzip").arg(&tar).status()?;
    ensure!(status.success(), "gzip failed");
    let file = work.join(format!("{number}.tar.gz"));
    let bytes = Bytes::from(fs::read(&file)?);
    Ok(Layer { file, bytes, diff_id: Digest::of(&plain), plain: plain.len() as u64 })
}

/// A registry with one image; the name of the image.
async fn serve(layers: &[Layer]) -> Result<String> {
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>()},
    });
    let config = Bytes::from(config.to_string());
    let describe = |media_type: &str, bytes: &Bytes| json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = json!({
        "schemaVersion": 2,
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|one| describe(layer, &one.bytes)).collect::<Vec<_>>(),
    });
    let manifest = Bytes::from(manifest.to_string());
    let blobs = layers.iter().map(|layer| layer.bytes.clone()).chain([config]);
    let blobs = blobs.map(|bytes| (format!("/v2/speed/blobs/{}", Digest::of(&bytes)), bytes));
    let content: Vec<_> = blobs.chain([("/v2/speed/manifests/latest".to_owned(), manifest)]).collect();
    let content = Arc::new(content);
    let app = axum::Router::new().fallback(move |uri: Uri| {
        let found = content.iter().find(|(path, _)| path == uri.path()).map(|(_, bytes)| bytes.clone());
        async move { found.map_or(StatusCode::NOT_FOUND.into_response(), |bytes| bytes.into_response()) }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let name = format!("{}/speed", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(name)
}

fn untar(layers: &[Layer], work: &Path) -> Result<Duration> {
    let target = tempfile::tempdir_in(work)?;
    let start = Instant::now();
    for layer in layers {
        let status = Command::new("tar").arg("xzf").arg(&layer.file).arg("-C").arg(target.path()).status()?;
        ensure!(status.success(), "tar cannot unpack");
    }
    Ok(start.elapsed())
}

async fn pull(name: &str, work: &Path) -> Result<Duration> {
    let target = tempfile::tempdir_in(work)?;
    let store = Store::open(target.path(), Config::default()).context("open the store")?;
    let start = Instant::now();
    store.pull(&Reference::parse(name)?, &Credentials::Anonymous, None).await?;
    Ok(start.elapsed())
}
