//! The client side of the OCI distribution protocol: manifests and blobs of one repository at one registry.
//!
//! A [`Session`] belongs to one pull. It knows where the repository really is (a mirror, docker.io's other name),
//! answers authentication challenges, retries what may pass, and resumes a broken download where it stopped. Bodies
//! are bounded. Digests of manifests are verified here, those of blobs by whoever takes the bytes.
//!
//! Its own code on `reqwest` rather than `oci-client`'s client: that one reads manifests of any size into memory,
//! hides why authentication failed, and hashes blobs a second time (docs/decisions/registry-client.md).

mod auth;
mod blob;
mod transport;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Mutex;

use crate::config::{Config, Credentials};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::login;
use crate::manifest;
use crate::reference::Reference;
use auth::Authorization;

pub(crate) use blob::Receiver;
pub(crate) use transport::Clients;

const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// Of an error's body, what is read to explain it.
const MAX_EXPLANATION: u64 = 16 << 10;

/// A place that has a registry's repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`.
    host: String,
    /// Before each repository's name.
    prefix: String,
    plain_http: bool,
    /// The registry of the name itself: the only one that gets the caller's credentials.
    origin: bool,
}

impl Endpoint {
    /// Where to ask for an image, in order.
    pub(crate) fn of(reference: &Reference, config: &Config) -> Vec<Endpoint> {
        let registry = reference.registry();
        let endpoint = |host: &str, prefix: &str, origin| Endpoint {
            host: host.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            plain_http: !config.tls.contains_key(host)
                && (transport::is_loopback(host) || config.insecure_registries.contains(host)),
            origin,
        };
        let mirrors = config.mirrors.get(registry).map(Vec::as_slice).unwrap_or_default();
        let mirrors = mirrors.iter().map(|mirror| endpoint(&mirror.host, &mirror.prefix, false));
        let host = match registry {
            registry if registry == DOCKER_HUB.0 => DOCKER_HUB.1,
            registry => registry,
        };
        mirrors.chain([endpoint(host, "", true)]).collect()
    }
}

/// The talk with one endpoint about one repository.
pub(crate) struct Session {
    config: Config,
    client: reqwest::Client,
    /// For tokens, which may come from another host.
    clients: Clients,
    endpoint: Endpoint,
    repository: String,
    /// The image's name in errors.
    image: String,
    credentials: Credentials,
    authorization: Mutex<Authorization>,
}

/// What went wrong with one request.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    reason: String,
    /// Whether trying again may help, and how long the registry asks to wait.
    retry: Option<Duration>,
}

impl Failure {
    fn lasting(kind: ErrorKind, reason: impl Into<String>) -> Failure {
        Failure { kind, reason: reason.into(), retry: None }
    }

    fn passing(reason: impl Into<String>) -> Failure {
        Failure { kind: ErrorKind::Unavailable, reason: reason.into(), retry: Some(Duration::ZERO) }
    }

    fn transport(error: &reqwest::Error) -> Failure {
        // A redirect that the policy refuses, or a URL that cannot be one, stays wrong.
        match error.is_redirect() || error.is_builder() {
            true => Failure::lasting(ErrorKind::Unavailable, transport::explain(error)),
            false => Failure::passing(transport::explain(error)),
        }
    }
}

/// A verified manifest or index.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
}

impl Session {
    pub(crate) fn new(
        clients: &Clients,
        config: &Config,
        endpoint: Endpoint,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Arc<Session>, Error> {
        let repository = match endpoint.prefix.as_str() {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        let credentials = match (credentials, &config.auth_file) {
            (given, _) if endpoint.origin && *given != Credentials::Anonymous => given.clone(),
            (_, Some(file)) => login::from_file(file, &endpoint.host, &repository)?,
            (_, None) => Credentials::Anonymous,
        };
        Ok(Arc::new(Session {
            config: config.clone(),
            client: clients.get(&endpoint.host, endpoint.plain_http)?,
            clients: clients.clone(),
            authorization: Mutex::new(Authorization::initial(&credentials)),
            endpoint,
            repository,
            image: reference.to_string(),
            credentials,
        }))
    }

    pub(crate) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// The manifest or index that a tag or digest names. By digest the bytes must match it; by tag they must match
    /// what the registry says.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Answer, Error> {
        let action = format!("get manifest {version}");
        let path = format!("manifests/{version}");
        let accept = manifest::ACCEPT.join(", ");
        let limit = self.config.limits.manifest_bytes;
        let (headers, bytes) = self.get(&action, &path, &accept, limit).await?;
        let digest = Digest::of(&bytes);
        let stated = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        let expected = match version.starts_with("sha256:") {
            true => Some(version),
            false => stated.filter(|stated| stated.starts_with("sha256:")),
        };
        match expected {
            Some(expected) if expected != digest.to_string() => {
                let reason = format!("digest mismatch: what came has {digest} instead of {expected}");
                Err(self.error(&action, Failure::lasting(ErrorKind::Invalid, reason)))
            }
            _ => Ok(Answer { bytes, digest }),
        }
    }

    /// A small blob, verified.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        let action = format!("get blob {digest}");
        let (_, bytes) = self.get(&action, &format!("blobs/{digest}"), "*/*", size).await?;
        let found = Digest::of(&bytes);
        match found == *digest && bytes.len() as u64 == size {
            true => Ok(bytes),
            false => {
                let reason =
                    format!("digest mismatch: what came has {found} and {} bytes instead of {size}", bytes.len());
                Err(self.error(&action, Failure::lasting(ErrorKind::Invalid, reason)))
            }
        }
    }

    async fn get(&self, action: &str, path: &str, accept: &str, limit: u64) -> Result<(HeaderMap, Vec<u8>), Error> {
        let mut tries = Tries::new(&self.config);
        loop {
            let result = async {
                let response = self.request(path, accept, None).await?;
                let headers = response.headers().clone();
                Ok((headers, read(response, limit).await?))
            };
            match result.await {
                Ok(answer) => return Ok(answer),
                Err(failure) => tries.again(failure).await.map_err(|failure| self.error(action, failure))?,
            }
        }
    }

    /// Sends one request, answering at most one challenge.
    async fn request(&self, path: &str, accept: &str, from: Option<u64>) -> Result<Response, Failure> {
        let url = self.url(path)?;
        let mut challenged = false;
        loop {
            let (header, generation) = self.authorization.lock().await.current();
            let mut request = self.client.get(url.clone()).header(ACCEPT, accept);
            if let Some(header) = header {
                request = request.header(reqwest::header::AUTHORIZATION, header);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await.map_err(|error| Failure::transport(&error))?;
            if response.status() != StatusCode::UNAUTHORIZED || challenged || !self.is_ours(response.url()) {
                return check(response).await;
            }
            challenged = true;
            self.answer(response, generation).await?;
        }
    }

    /// A redirect may have led elsewhere, and whoever is there must not be told who we are.
    fn is_ours(&self, url: &Url) -> bool {
        self.url("").is_ok_and(|own| own.origin() == url.origin())
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let scheme = if self.endpoint.plain_http { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{path}", self.endpoint.host, self.repository);
        url.parse().map_err(|error| Failure::lasting(ErrorKind::Invalid, format!("{url}: {error}")))
    }

    fn error(&self, action: &str, failure: Failure) -> Error {
        Error::Registry {
            kind: failure.kind,
            registry: self.endpoint.host.clone(),
            image: self.image.clone(),
            action: action.to_owned(),
            reason: failure.reason,
        }
    }
}

/// Counts tries and waits between them.
struct Tries<'a> {
    config: &'a Config,
    failed: u32,
}

impl<'a> Tries<'a> {
    fn new(config: &'a Config) -> Tries<'a> {
        Tries { config, failed: 0 }
    }

    /// There was progress: the next failure is a first one.
    fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits for the next try, or gives the failure back if there is none.
    async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        let Some(asked) = failure.retry else {
            return Err(failure);
        };
        self.failed += 1;
        if self.failed >= self.config.attempts {
            return Err(failure);
        }
        let doubled = self.config.backoff.saturating_mul(1 << (self.failed - 1).min(16));
        let pause = doubled.max(asked).min(self.config.backoff_max);
        tracing::debug!(reason = %failure.reason, ?pause, "trying the registry again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Turns a status that is no success into what it means.
async fn check(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let asked = response.headers().get(RETRY_AFTER).and_then(seconds);
    let kind = match status.as_u16() {
        401 | 403 => ErrorKind::Unauthorized,
        404 => ErrorKind::NotFound,
        416 => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
    let explanation = match read(response, MAX_EXPLANATION).await {
        Ok(body) => explanation(&body),
        Err(_) => String::new(),
    };
    Err(Failure {
        kind,
        reason: format!("the registry answered {status}{explanation}"),
        retry: passing.then(|| asked.unwrap_or_default()),
    })
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The first error of a registry's JSON, made fit for a line of text.
fn explanation(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return String::new();
    };
    let Some(first) = body.errors.into_iter().next() else {
        return String::new();
    };
    let text = format!(" ({}: {})", first.code, first.message);
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A whole body, if it is no longer than `limit`.
async fn read(mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
    let too_long = || Failure::lasting(ErrorKind::Invalid, format!("the answer is longer than {limit} bytes"));
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::transport(&error))? {
        if body.len() as u64 + chunk.len() as u64 > limit {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
