//! The directory of static manifests: listed in full every period and whenever inotify says that something changed. A file
//! that cannot be read as a pod gives one report per version of the file and disturbs nothing else: the pod that an
//! earlier version of it made goes on (a slip of the editor must not stop a service), until the file is mended or gone.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{Change, Source, full_name, manifest, uid};
use crate::{
    events::{Recorder, Severity},
    watch::DirectoryWatch,
};

/// How long a directory must be quiet before it is read: editors write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// The longest a busy directory is waited for.
const BUSY: Duration = Duration::from_secs(1);

/// Watch `directory` and tell `changes` of its pods until `shutdown`. A directory that does not exist is empty.
pub async fn run(
    directory: PathBuf,
    node: String,
    period: Duration,
    recorder: Recorder,
    changes: mpsc::Sender<(Source, Change)>,
    shutdown: CancellationToken,
) {
    let mut listing = Listing::new(directory.clone(), node.clone());
    let mut told: Option<Vec<String>> = None;
    loop {
        // The watch stands before the listing, so that nothing falls between; it is renewed with the directory.
        let watch =
            DirectoryWatch::new(&directory).inspect_err(|error| debug!(%error, "no watch on the manifests")).ok();
        let scanned = tokio::task::spawn_blocking(move || {
            let scan = listing.scan(Timestamp::now());
            (listing, scan)
        });
        let (returned, scan) = match scanned.await {
            Ok(done) => done,
            Err(error) => {
                error!(%error, "reading the static manifests broke off");
                return;
            }
        };
        listing = returned;
        match scan {
            Ok(scan) => {
                for report in &scan.reports {
                    error!(report = report.as_str(), "static manifest refused");
                    recorder.node(&node, Severity::Warning, "FailedValidation", report.as_str());
                }
                let uids: Vec<String> = scan.pods.iter().map(|pod| uid(pod).to_owned()).collect();
                if told.as_ref() != Some(&uids) {
                    if changes.send((Source::File, Change::All(scan.pods))).await.is_err() {
                        return;
                    }
                    told = Some(uids);
                }
            }
            Err(error) => warn!(%error, directory = %directory.display(), "static manifests not readable"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            // Nothing is lost by cancelling: what changed is seen by the listing.
            () = wait(watch, period) => {}
        }
    }
}

/// Wait for a change and the quiet after it, or for the period.
async fn wait(watch: Option<DirectoryWatch>, period: Duration) {
    let Some(mut watch) = watch else { return tokio::time::sleep(period).await };
    if let Ok(Ok(())) = tokio::time::timeout(period, watch.changed()).await {
        let quiet = async { while let Ok(Ok(())) = tokio::time::timeout(QUIET, watch.changed()).await {} };
        // Out of time or quiet, it is read now either way.
        let _ = tokio::time::timeout(BUSY, quiet).await;
    }
}

/// What a listing found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The pods of all files, in the order of their names.
    pub pods: Vec<Arc<Pod>>,
    /// What is wrong with files that have changed since they were last reported.
    pub reports: Vec<String>,
}

/// The files of a directory as they were last read.
#[derive(Debug)]
pub struct Listing {
    directory: PathBuf,
    node: String,
    files: BTreeMap<PathBuf, Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    /// What the last good version says.
    pod: Option<Arc<Pod>>,
    /// The name clash that was reported.
    clash: Option<String>,
}

/// Changes whenever a file does.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Listing {
    /// The listing of a directory, nothing read yet.
    pub fn new(directory: PathBuf, node: String) -> Self {
        Self { directory, node, files: BTreeMap::new() }
    }

    /// Read what has changed. Blocking.
    pub fn scan(&mut self, now: Timestamp) -> io::Result<Scan> {
        let mut scan = Scan::default();
        let mut files = BTreeMap::new();
        for path in manifests(&self.directory)? {
            let before = self.files.remove(&path);
            match read(&path, before.as_ref().map(|seen| &seen.stamp)) {
                Ok(Content::Same) => files.extend(before.map(|seen| (path, seen))),
                Ok(Content::New(stamp, bytes)) => {
                    let outcome = manifest::read(&bytes, &path.to_string_lossy(), &self.node, now);
                    let before = before.and_then(|seen| seen.pod);
                    let pod = match outcome {
                        // The same pod keeps the time at which it was first seen.
                        Ok(pod) => Some(before.filter(|old| uid(old) == uid(&pod)).unwrap_or_else(|| Arc::new(pod))),
                        Err(report) => {
                            scan.reports.push(report);
                            before
                        }
                    };
                    files.insert(path, Seen { stamp, pod, clash: None });
                }
                Ok(Content::NotAFile) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    scan.reports.push(format!("{}: {error}", path.display()));
                    files.extend(before.map(|seen| (path, seen)));
                }
            }
        }
        self.files = files;
        self.take_pods(&mut scan);
        Ok(scan)
    }

    /// The pods of all files; of two with one name only the first file's, since their mirror would be one.
    fn take_pods(&mut self, scan: &mut Scan) {
        let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (path, seen) in &mut self.files {
            let Some(pod) = &seen.pod else { continue };
            let name = full_name(pod);
            match names.get(&name) {
                None => {
                    names.insert(name, path.clone());
                    seen.clash = None;
                    scan.pods.push(pod.clone());
                }
                Some(first) => {
                    let report = format!("{}: pod {name} is already in {}", path.display(), first.display());
                    if seen.clash.as_ref() != Some(&report) {
                        scan.reports.push(report.clone());
                        seen.clash = Some(report);
                    }
                }
            }
        }
    }
}

/// Paths of the directory that may be manifests, sorted. No directory is no manifest.
fn manifests(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

enum Content {
    Same,
    New(Stamp, Vec<u8>),
    NotAFile,
}

fn read(path: &Path, known: Option<&Stamp>) -> io::Result<Content> {
    // Not blocking: the name may be a pipe's.
    let file = File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Content::NotAFile);
    }
    let stamp = Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    if known == Some(&stamp) {
        return Ok(Content::Same);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser refuses what is too long.
    file.take(podd_manifest::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Content::New(stamp, bytes))
}

#[cfg(test)]
mod tests;
