//! `podd load`: sends an archive to the agent, piece by piece, so that the agent need not see the file.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use axum::body::{Body, Bytes};
use futures::{Stream, stream};
use indicatif::ProgressBar;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::images::bytes;
use super::pull::spinner;
use crate::cli::Load;
use crate::client::own;
use crate::config::Settings;
use crate::print::say;

/// How much is read at a time, in bytes.
const PIECE: usize = 256 << 10;

pub(crate) async fn run(args: Load, settings: &Settings) -> anyhow::Result<()> {
    let name = args.file.or(args.input).unwrap_or_else(|| "-".to_owned());
    let archive = open(&name).await?;
    let socket = own::agent_socket(settings).await?;
    let bar = if args.quiet { ProgressBar::hidden() } else { spinner(&format!("loading {name}")) };
    let read_error = Arc::new(Mutex::new(None));
    let sent = pieces(archive, name.clone(), bar.clone(), read_error.clone());
    let answer = answer(&socket, Body::from_stream(sent)).await;
    bar.finish_and_clear();
    // What the other side says of an archive that we could not read is of no interest.
    if let Some(error) = read_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(anyhow::Error::new(error).context(format!("read {name}")));
    }
    for image in answer.with_context(|| format!("load {name}"))? {
        say!("loaded {image}");
    }
    Ok(())
}

async fn answer(socket: &std::path::Path, body: Body) -> anyhow::Result<Vec<String>> {
    let mut lines = own::post(socket, "/podd/v1/load", "application/x-tar", body).await?;
    match lines.next().await? {
        Some(line) => Ok(serde_json::from_value(line["loaded"].clone()).context("read the answer")?),
        None => bail!("the agent ended before the archive was loaded"),
    }
}

/// An archive and its size, where that is known.
struct Archive {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    size: Option<u64>,
}

async fn open(name: &str) -> anyhow::Result<Archive> {
    if name == "-" {
        if std::io::stdin().is_terminal() {
            bail!("standard input is a terminal; name an archive, or redirect one to standard input");
        }
        return Ok(Archive { reader: Box::new(tokio::io::stdin()), size: None });
    }
    let file = tokio::fs::File::open(name).await.with_context(|| format!("open {name}"))?;
    let found = file.metadata().await.with_context(|| format!("open {name}"))?;
    if found.is_dir() {
        bail!("{name} is a directory; name an archive, such as `tar -C {name} -c .` makes");
    }
    Ok(Archive { size: found.is_file().then_some(found.len()), reader: Box::new(file) })
}

/// The archive in pieces, told to the bar as they go. An error of reading ends them and is left in `failed`.
fn pieces(
    archive: Archive,
    name: String,
    bar: ProgressBar,
    failed: Arc<Mutex<Option<std::io::Error>>>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    let of = archive.size.map_or(String::new(), |size| format!(" of {}", bytes(size)));
    let start = (archive.reader, 0_u64);
    stream::try_unfold(start, move |(mut reader, done)| {
        let (bar, failed, name, of) = (bar.clone(), failed.clone(), name.clone(), of.clone());
        async move {
            let mut piece = vec![0; PIECE];
            match reader.read(&mut piece).await {
                Ok(0) => {
                    bar.set_message(format!("unpacking {name}"));
                    Ok(None)
                }
                Ok(count) => {
                    piece.truncate(count);
                    let done = done + count as u64;
                    bar.set_message(format!("loading {name}: {}{of}", bytes(done)));
                    Ok(Some((Bytes::from(piece), (reader, done))))
                }
                Err(error) => {
                    let text = std::io::Error::other(error.to_string());
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err(text)
                }
            }
        }
    })
}
