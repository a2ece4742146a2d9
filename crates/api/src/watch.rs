//! Watches: a stream of changes from a version on.
//!
//! A watcher is a cursor into the bounded history of its kind and holds nothing else: it reads on when the
//! client has read, so a slow client costs no memory, and one that falls behind the history gets 410 and is
//! cut off. As upstream, a version that is too old from the start is answered by 200 and an ERROR event with
//! that same 410 `Expired`: clients (kube-rs among them) relist on the event, and would retry the same version
//! for ever on an HTTP error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;
use crate::kinds::Kind;
use crate::list;
use crate::query::Query;
use crate::selector::Selector;
use crate::store::{Cache, Change, Happened, Object, Store, TooOld};
use crate::target::Target;

/// Changes put into one chunk of the answer.
const BATCH: usize = 64;
/// How long a watch lives when the client sets no limit.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Between two bookmarks.
const BOOKMARK: Duration = Duration::from_secs(60);

/// What a watch asks for.
pub(crate) struct WatchOptions {
    selector: Selector,
    version: Option<u64>,
    bookmarks: bool,
    initial_events: Option<bool>,
    lifetime: Duration,
}

impl WatchOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, Failure> {
        let initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        if initial_events.is_some() && query.text("resourceVersionMatch") != "NotOlderThan" {
            return Err(Failure::bad_request(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
                 resourceVersionMatch to NotOlderThan",
            ));
        }
        let seconds = query.number("timeoutSeconds")?.unwrap_or(0);
        Ok(Self {
            selector: Selector::parse(kind, query.text("labelSelector"), query.text("fieldSelector"))?,
            version: list::version(query)?,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
            lifetime: u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map_or(LIFETIME, Duration::from_secs),
        })
    }
}

/// Starts a watch; the stream ends with its lifetime, with the server, or after an ERROR event.
pub(crate) fn watch(
    store: Arc<Store>,
    target: Target,
    options: WatchOptions,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let now = Instant::now();
    let news = store.read().subscribe(target.kind);
    let mut watcher = Watcher {
        news,
        closing: store.closing(),
        deadline: now + options.lifetime,
        bookmark_at: now + BOOKMARK,
        filter: Filter { target, selector: options.selector },
        initial: VecDeque::new(),
        initial_end: false,
        bookmarks: options.bookmarks,
        position: 0,
        over: false,
        store,
    };
    let first = watcher.start(options.version, options.initial_events);
    futures::stream::unfold((watcher, first), |(mut watcher, first)| async move {
        let chunk = match first {
            Some(chunk) => Some(chunk),
            None => watcher.next().await,
        };
        chunk.map(|chunk| (Ok(chunk), (watcher, None)))
    })
}

struct Watcher {
    store: Arc<Store>,
    news: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    filter: Filter,
    /// Objects that are there already, sent as ADDED first.
    initial: VecDeque<Arc<Object>>,
    /// The bookmark that ends the initial events is still to be sent.
    initial_end: bool,
    bookmarks: bool,
    /// Everything up to this revision is sent.
    position: u64,
    deadline: Instant,
    bookmark_at: Instant,
    over: bool,
}

/// Which objects a watch is about.
struct Filter {
    target: Target,
    selector: Selector,
}

impl Watcher {
    /// Takes its position; a chunk is returned when there is one to send at once.
    fn start(&mut self, version: Option<u64>, initial_events: Option<bool>) -> Option<Bytes> {
        let store = self.store.clone();
        let cache = store.read();
        let version = version.unwrap_or(0);
        if version > cache.revision {
            let failure = Failure::too_large_version(version, cache.revision);
            return Some(self.end(&failure));
        }
        if initial_events.unwrap_or(version == 0) {
            self.position = cache.revision;
            let objects = cache.objects(self.filter.target.kind, self.filter.target.namespace.as_deref());
            self.initial = objects.filter(|object| self.filter.selects(object)).cloned().collect();
            self.initial_end = initial_events == Some(true) && self.bookmarks;
            return None;
        }
        self.position = if version == 0 { cache.revision } else { version };
        let known = cache.changes_after(self.filter.target.kind, self.position, 1);
        known.err().map(|TooOld { oldest }| self.end(&too_old(version, oldest)))
    }

    /// The last chunk: an ERROR event.
    fn end(&mut self, failure: &Failure) -> Bytes {
        self.over = true;
        let mut chunk = BytesMut::new();
        event(&mut chunk, "ERROR", failure.status().to_string().as_bytes());
        chunk.freeze()
    }

    async fn next(&mut self) -> Option<Bytes> {
        if !self.initial.is_empty() {
            let mut chunk = BytesMut::new();
            let count = self.initial.len().min(BATCH);
            self.initial.drain(..count).for_each(|object| event(&mut chunk, "ADDED", &object.json));
            return Some(chunk.freeze());
        }
        if std::mem::take(&mut self.initial_end) {
            return Some(self.bookmark(true));
        }
        while !self.over && !*self.closing.borrow() {
            // Looked at before what is new: a watch of a busy kind ends in time, and is told where it is.
            let now = Instant::now();
            if now >= self.deadline {
                return None;
            }
            if self.bookmarks && now >= self.bookmark_at {
                self.bookmark_at = now + BOOKMARK;
                return Some(self.bookmark(false));
            }
            self.news.mark_unchanged();
            let read = read(&self.store.read(), &self.filter, self.position);
            match read {
                Err(TooOld { oldest }) => {
                    return Some(self.end(&too_old(self.position, oldest)));
                }
                Ok((chunk, reached)) => {
                    self.position = reached;
                    if !chunk.is_empty() {
                        return Some(chunk);
                    }
                }
            }
            // Every arm only waits: what is dropped here is asked for again in the next round.
            tokio::select! {
                changed = self.news.changed() => if changed.is_err() { return None },
                _ = self.closing.changed() => return None,
                () = sleep_until(self.deadline) => {}
                () = sleep_until(self.bookmark_at), if self.bookmarks => {}
            }
        }
        None
    }

    /// An event that only tells how far the watch has come.
    fn bookmark(&self, initial_end: bool) -> Bytes {
        let kind = self.filter.target.kind;
        let mut object = json!({
            "kind": kind.kind, "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut chunk = BytesMut::new();
        event(&mut chunk, "BOOKMARK", object.to_string().as_bytes());
        chunk.freeze()
    }
}

/// The next selected changes as events, and the revision that is reached with them.
fn read(cache: &Cache, filter: &Filter, position: u64) -> Result<(Bytes, u64), TooOld> {
    let mut position = position;
    loop {
        let (changes, reached) = cache.changes_after(filter.target.kind, position, BATCH)?;
        let mut chunk = BytesMut::new();
        changes.iter().for_each(|change| filter.tell(change, &mut chunk));
        position = reached;
        if !chunk.is_empty() || changes.len() < BATCH {
            return Ok((chunk.freeze(), position));
        }
    }
}

impl Filter {
    fn selects(&self, object: &Object) -> bool {
        self.target.namespace.as_ref().is_none_or(|namespace| object.key.namespace == *namespace)
            && self.target.name.as_ref().is_none_or(|name| object.key.name == *name)
            && self.selector.matches(object)
    }

    /// What a change looks like through the selector: an object that leaves it is deleted for this watcher.
    fn tell(&self, change: &Change, chunk: &mut BytesMut) {
        let was = change.previous.as_ref().is_some_and(|previous| self.selects(previous));
        let is = change.happened != Happened::Deleted && self.selects(&change.object);
        match (was, is) {
            (false, true) => event(chunk, "ADDED", &change.object.json),
            (true, true) => event(chunk, "MODIFIED", &change.object.json),
            (true, false) => event(chunk, "DELETED", &change.object.json),
            (false, false) => {}
        }
    }
}

fn too_old(asked: u64, oldest: u64) -> Failure {
    Failure::expired(format!("too old resource version: {asked} ({oldest})"))
}

fn event(chunk: &mut BytesMut, happened: &str, object: &[u8]) {
    chunk.put_slice(b"{\"type\":\"");
    chunk.put_slice(happened.as_bytes());
    chunk.put_slice(b"\",\"object\":");
    chunk.put_slice(object);
    chunk.put_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt as _;
    use tokio::time::advance;

    use super::*;
    use crate::kinds::KINDS;
    use crate::store::{Key, Weight};

    /// A store whose config map changes once a second, and all that a watch of it says until it ends.
    async fn busy(lifetime: Duration, bookmarks: bool) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("api.redb"), 100).unwrap());
        let kind = KINDS.iter().find(|kind| kind.plural == "configmaps").unwrap();
        let target = Target { kind, namespace: None, name: None, subresource: None };
        let selector = Selector::parse(kind, "", "").unwrap();
        let options = WatchOptions { selector, version: None, bookmarks, initial_events: None, lifetime };
        let mut stream = pin!(watch(Arc::clone(&store), target, options));
        let mut said = Vec::new();
        for second in 0..1000 {
            let change = move |transaction: &mut crate::store::Transaction<'_>| {
                transaction.put(kind, Key::new("default", "c"), json!({"metadata": {}, "data": {"n": second}}));
                Ok(())
            };
            store.write(Weight::Full, false, change).await.unwrap();
            let Some(Ok(chunk)) = stream.next().await else { break };
            said.push(String::from_utf8(chunk.to_vec()).unwrap());
            advance(Duration::from_secs(1)).await;
        }
        store.close().await.unwrap();
        said
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_of_a_busy_kind_ends_in_time() {
        let said = busy(Duration::from_secs(5), false).await;
        assert_eq!(said.len(), 5, "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_of_a_busy_kind_has_its_bookmarks() {
        let said = busy(Duration::from_secs(150), true).await;
        let bookmarks = said.iter().filter(|chunk| chunk.contains(r#""type":"BOOKMARK""#)).count();
        assert_eq!(bookmarks, 2, "{said:?}");
    }
}
