//! A registry that can be told to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use podd_image::Digest;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::packed::{INDEX, MANIFEST, Packed};

/// A server on a port of its own, until it is dropped.
pub(crate) struct Registry {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    address: String,
    /// Media type and bytes, by path.
    content: BTreeMap<String, (String, Bytes)>,
    faults: Vec<Fault>,
    login: Login,
    no_ranges: bool,
    seen: Vec<Seen>,
}

/// How requests whose path contains `path` go wrong, `times` times.
struct Fault {
    path: String,
    times: usize,
    wrong: Wrong,
}

#[derive(Clone, Debug)]
pub(crate) enum Wrong {
    Status(u16),
    /// 429, with the seconds of Retry-After.
    Busy(u64),
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// Other bytes.
    Lie(Vec<u8>),
    /// What the headers say of the digest.
    Header(String),
    /// Elsewhere.
    Redirect(String),
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Login {
    #[default]
    Open,
    Basic(&'static str, &'static str),
    /// A token from this server's own `/token`, for whoever gives a user and a password, or for anyone.
    Bearer(Option<(&'static str, &'static str)>),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

impl Registry {
    pub(crate) async fn start() -> Registry {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { address: address.to_string(), ..Shared::default() }));
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Registry { address, shared, task }
    }

    /// `host:port/app:1`, for `app:1`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    fn put(&self, path: String, media_type: &str, bytes: &[u8]) {
        self.shared().content.insert(path, (media_type.to_owned(), Bytes::copy_from_slice(bytes)));
    }

    pub(crate) fn put_blob(&self, repository: &str, bytes: &[u8]) {
        self.put(format!("/v2/{repository}/blobs/{}", Digest::of(bytes)), "application/octet-stream", bytes);
    }

    /// An image under a tag and its digest.
    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Packed) {
        image.blobs().for_each(|blob| self.put_blob(repository, blob));
        for version in [tag, &image.digest().to_string()] {
            self.put(format!("/v2/{repository}/manifests/{version}"), MANIFEST, &image.manifest);
        }
    }

    pub(crate) fn push_index(&self, repository: &str, tag: &str, index: &serde_json::Value) -> Digest {
        let bytes = index.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        for version in [tag, &digest.to_string()] {
            self.put(format!("/v2/{repository}/manifests/{version}"), INDEX, &bytes);
        }
        digest
    }

    pub(crate) fn forget(&self, part: &str) {
        self.shared().content.retain(|path, _| !path.contains(part));
    }

    pub(crate) fn fault(&self, path: impl ToString, times: usize, wrong: Wrong) {
        self.shared().faults.push(Fault { path: path.to_string(), times, wrong });
    }

    pub(crate) fn heal(&self) {
        self.shared().faults.clear();
    }

    pub(crate) fn login(&self, login: Login) {
        self.shared().login = login;
    }

    pub(crate) fn without_ranges(&self) {
        self.shared().no_ranges = true;
    }

    /// The requests whose path contains `part`, in order.
    pub(crate) fn seen(&self, part: &str) -> Vec<Seen> {
        self.shared().seen.iter().filter(|seen| seen.path.contains(part)).cloned().collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let mut shared = shared.lock().unwrap();
    let path = request.uri().path().to_owned();
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let seen = Seen { path: path.clone(), authorization: text(header::AUTHORIZATION), range: text(header::RANGE) };
    shared.seen.push(seen.clone());
    if path == "/token" {
        return token(&shared.login, &seen, request.uri().query().unwrap_or_default());
    }
    if let Some(refusal) = refuse(&shared, &seen) {
        return refusal;
    }
    let fault = shared.faults.iter_mut().find(|fault| fault.times > 0 && path.contains(&fault.path));
    let wrong = fault.map(|fault| {
        fault.times -= 1;
        fault.wrong.clone()
    });
    let Some((media_type, bytes)) = shared.content.get(&path).cloned() else {
        let body = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
        return (StatusCode::NOT_FOUND, body.to_string()).into_response();
    };
    let asked = seen.range.filter(|_| !shared.no_ranges);
    let from = asked.map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
    send(media_type, bytes, from, wrong)
}

fn send(media_type: String, bytes: Bytes, from: Option<usize>, wrong: Option<Wrong>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    headers.insert("docker-content-digest", Digest::of(&bytes).to_string().parse().unwrap());
    let mut status = StatusCode::OK;
    let mut body = bytes.clone();
    if let Some(from) = from {
        if from >= bytes.len() {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
        status = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
        body = bytes.slice(from..);
    }
    let then_nothing = |sent: usize, rest: bool| {
        let start = stream::iter([Ok(body.slice(..sent.min(body.len())))]);
        match rest {
            true => Body::from_stream(start.chain(stream::pending::<Result<Bytes, std::io::Error>>())),
            false => Body::from_stream(start.chain(stream::once(async {
                // The server flushes what it has when there is nothing to send for a moment.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            }))),
        }
    };
    match wrong {
        None => (status, headers, body).into_response(),
        Some(Wrong::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Wrong::Busy(seconds)) => {
            let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]});
            let headers = [(header::RETRY_AFTER, seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, headers, body.to_string()).into_response()
        }
        Some(Wrong::Cut(sent)) => {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
            (status, headers, then_nothing(sent, false)).into_response()
        }
        Some(Wrong::Stall(sent)) => {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
            (status, headers, then_nothing(sent, true)).into_response()
        }
        Some(Wrong::Lie(other)) => (StatusCode::OK, headers, other).into_response(),
        Some(Wrong::Header(digest)) => {
            headers.insert("docker-content-digest", digest.parse().unwrap());
            (status, headers, body).into_response()
        }
        Some(Wrong::Redirect(to)) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
    }
}

const TOKEN: &str = "the-token";

fn refuse(shared: &Shared, seen: &Seen) -> Option<Response> {
    let (wanted, challenge) = match &shared.login {
        Login::Open => return None,
        Login::Basic(user, password) => (basic(user, password), "Basic realm=\"here\"".to_owned()),
        Login::Bearer(_) => {
            let realm = format!("http://{}/token", shared.address);
            let challenge = format!(r#"Bearer realm="{realm}",service="here",scope="repository:app:pull""#);
            (format!("Bearer {TOKEN}"), challenge)
        }
    };
    let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]});
    let refusal = (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], body.to_string());
    (seen.authorization.as_deref() != Some(&wanted)).then(|| refusal.into_response())
}

fn token(login: &Login, seen: &Seen, query: &str) -> Response {
    assert!(query.contains("service=here") && query.contains("scope=repository%3Aapp%3Apull"), "{query}");
    let wanted = match login {
        Login::Bearer(Some((user, password))) => Some(basic(user, password)),
        _ => None,
    };
    match wanted.is_none() || wanted == seen.authorization {
        true => json!({"token": TOKEN}).to_string().into_response(),
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}
