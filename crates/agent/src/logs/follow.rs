//! A log as a stream of bytes for an HTTP body. Without `follow` it ends at the end of the files; with it, when the
//! container has stopped and everything that it wrote is read.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture};
use tracing::debug;

use super::{
    Selection,
    reader::{Progress, Reader},
};
use crate::watch::DirectoryWatch;

/// Bytes in one part of the stream.
const PART: usize = 128 * 1024;
/// How often a quiet log is looked at and its container asked after.
const PERIOD: Duration = Duration::from_secs(1);

/// Asks whether the container still runs.
pub type IsRunning = Box<dyn FnMut() -> BoxFuture<'static, bool> + Send>;

struct Follower {
    /// Absent only while a blocking thread has it.
    reader: Option<Reader>,
    watch: Option<DirectoryWatch>,
    /// None when nothing more can come.
    is_running: Option<IsRunning>,
    /// The end was reached once.
    asked: bool,
    over: bool,
}

/// Open a log and stream it. Errors of opening come at once, later ones in the stream. `is_running` is asked only when
/// following.
pub async fn stream(
    live: &Path,
    selection: Selection,
    is_running: IsRunning,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
    // The watch comes before the first read, so that nothing written in between is noticed only by the timer.
    let watch = match live.parent() {
        Some(directory) if selection.follow => DirectoryWatch::new(directory)
            .inspect_err(|error| debug!(%error, "no watch on the log directory, polling"))
            .ok(),
        _ => None,
    };
    let path = live.to_owned();
    let follow = selection.follow;
    let reader = blocking(move || Reader::open(&path, &selection)).await??;
    let follower =
        Follower { reader: Some(reader), watch, is_running: follow.then_some(is_running), asked: false, over: false };
    Ok(futures::stream::unfold(follower, |mut follower| async move {
        let part = follower.next().await?;
        Some((part, follower))
    }))
}

impl Follower {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.over {
            return None;
        }
        loop {
            let (part, progress) = match self.read_part().await {
                Ok(read) => read,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            };
            self.over = match progress {
                Progress::More => false,
                Progress::Finished => true,
                Progress::AtEnd => self.is_running.is_none(),
            };
            if !part.is_empty() {
                return Some(Ok(part.into()));
            }
            if self.over {
                return None;
            }
            if progress == Progress::AtEnd {
                self.wait().await;
            }
        }
    }

    /// Wait for a change, or find that the container has stopped: then one more pass reads the rest.
    async fn wait(&mut self) {
        // A container that has ended long ago is not waited for.
        if !std::mem::replace(&mut self.asked, true) {
            return self.ask().await;
        }
        let changed = async {
            match &mut self.watch {
                Some(watch) => watch.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        // Cancelling `changed` loses no event, the kernel keeps them.
        match tokio::time::timeout(PERIOD, changed).await {
            Ok(true) => return,
            // The watch broke (the directory is gone); the timer remains.
            Ok(false) => self.watch = None,
            Err(_) => {}
        }
        self.ask().await;
    }

    async fn ask(&mut self) {
        if let Some(is_running) = &mut self.is_running
            && !is_running().await
        {
            self.is_running = None;
        }
    }

    async fn read_part(&mut self) -> io::Result<(Vec<u8>, Progress)> {
        // The reader goes to the blocking thread and comes back with the outcome; when this future is dropped meanwhile,
        // nobody wants the rest.
        let Some(mut reader) = self.reader.take() else { return Ok((Vec::new(), Progress::Finished)) };
        let last = self.is_running.is_none();
        let (reader, outcome) = blocking(move || {
            let mut part = Vec::new();
            let outcome = reader.read(&mut part, PART).map(|progress| {
                if last && progress == Progress::AtEnd {
                    reader.finish(&mut part);
                }
                (part, progress)
            });
            (reader, outcome)
        })
        .await?;
        self.reader = Some(reader);
        outcome
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use futures::StreamExt;

    use super::*;

    fn running(flag: &Arc<AtomicBool>) -> IsRunning {
        let flag = flag.clone();
        Box::new(move || Box::pin(std::future::ready(flag.load(Ordering::SeqCst))))
    }

    fn record(text: &str) -> String {
        format!("2026-01-02T03:04:05.000000000Z stdout F {text}\n")
    }

    async fn next(stream: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin)) -> String {
        let part = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
        String::from_utf8(part.expect("a part").expect("read").to_vec()).expect("utf-8")
    }

    #[tokio::test]
    async fn following_goes_on_over_a_rotation_and_ends_with_the_container() {
        let directory = tempfile::tempdir().expect("a directory");
        let live = directory.path().join("0.log");
        let mut file = std::fs::File::create(&live).expect("made");
        file.write_all(record("one").as_bytes()).expect("written");
        let flag = Arc::new(AtomicBool::new(true));
        let selection = Selection { follow: true, ..Default::default() };
        let mut stream = Box::pin(stream(&live, selection, running(&flag)).await.expect("open"));
        assert_eq!(next(&mut stream).await, "one\n");

        file.write_all(record("two").as_bytes()).expect("written");
        std::fs::rename(&live, directory.path().join("0.log.20260102-030405")).expect("renamed");
        let mut file = std::fs::File::create(&live).expect("made");
        file.write_all(record("three").as_bytes()).expect("written");
        let mut text = next(&mut stream).await;
        if text == "two\n" {
            text += &next(&mut stream).await;
        }
        assert_eq!(text, "two\nthree\n");

        file.write_all(record("last").as_bytes()).expect("written");
        flag.store(false, Ordering::SeqCst);
        assert_eq!(next(&mut stream).await, "last\n");
        let end = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
        assert!(end.is_none());
    }

    #[tokio::test]
    async fn the_log_of_a_container_that_ended_is_followed_only_to_its_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let live = directory.path().join("0.log");
        std::fs::write(&live, record("all") + "2026-01-02T03:04:05Z stdout F torn").expect("written");
        let selection = Selection { follow: true, ..Default::default() };
        let stream = stream(&live, selection, running(&Arc::new(AtomicBool::new(false)))).await.expect("open");
        let parts: Vec<_> = stream.map(|part| part.expect("read")).collect().await;
        assert_eq!(parts.concat(), b"all\ntorn\n");
    }

    #[tokio::test]
    async fn a_log_that_goes_with_its_pod_ends_without_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let live = directory.path().join("0.log");
        std::fs::write(&live, record("all")).expect("written");
        // It still counts as running when its directory goes.
        let mut answers = [true].into_iter();
        let running: IsRunning = Box::new(move || Box::pin(std::future::ready(answers.next().unwrap_or(false))));
        let selection = Selection { follow: true, ..Default::default() };
        let mut stream = Box::pin(stream(&live, selection, running).await.expect("open"));
        assert_eq!(next(&mut stream).await, "all\n");
        directory.close().expect("removed");
        let end = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
        assert!(end.is_none(), "{end:?}");
    }

    #[tokio::test]
    async fn a_log_that_was_never_there_is_an_error_at_once() {
        let opened =
            stream(Path::new("/nowhere/0.log"), Selection::default(), Box::new(|| Box::pin(async { true }))).await;
        assert_eq!(opened.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }
}
