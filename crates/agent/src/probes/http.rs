//! HTTP requests to servers of pods, as the kubelet makes them: a connection each, no proxy, nothing verified, redirects
//! followed on the same host only, and of the body no more than is worth a message.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;
use url::{Position, Url};

use super::{
    reach::{Reach, join, port},
    run::Verdict,
    tls,
};

/// What is read of a body.
const BODY_MAX: usize = 10 << 10;
/// How many requests one probe may take.
const REQUESTS: usize = 10;

/// A request.
pub(crate) struct Get {
    pub(crate) url: Url,
    /// As in the manifest: in order, names may come again.
    pub(crate) headers: Vec<(String, String)>,
    /// `User-Agent`, unless the headers have one.
    pub(crate) agent: &'static str,
    pub(crate) reach: Reach,
}

/// What came of a request: the answer, or what a client would have printed.
pub(crate) type Answered = Result<Answer, String>;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

/// What an answer means for a probe.
pub(super) fn judge(answered: Answered) -> Verdict {
    match answered {
        Err(error) => Verdict::Failure(error),
        Ok(answer) if answer.status.is_success() => Verdict::Success,
        Ok(answer) if answer.status.is_redirection() => {
            Verdict::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
        }
        Ok(answer) => Verdict::Failure(format!("HTTP probe failed with statuscode: {}", answer.status.as_u16())),
    }
}

/// The URL of an action. The path may have a query; a host in it counts for nothing.
///
/// # Errors
/// When there is no such URL.
pub(crate) fn url(scheme: Option<&str>, host: &str, port: u16, path: &str) -> Result<Url, String> {
    let scheme = scheme.filter(|scheme| !scheme.is_empty()).unwrap_or("http").to_ascii_lowercase();
    let base = format!("{scheme}://{}/", join(host, port));
    let base = Url::parse(&base).map_err(|error| format!("parse \"{base}\": {error}"))?;
    let mut url = base.join(path).map_err(|error| format!("parse \"{path}\": {error}"))?;
    if (url.host(), url.port()) != (base.host(), base.port()) || url.scheme() != base.scheme() {
        let (path, query) = (url.path().to_owned(), url.query().map(str::to_owned));
        url = base;
        url.set_path(&path);
        url.set_query(query.as_deref());
    }
    Ok(url)
}

impl Get {
    /// The request of an action of `container`, whose `host` is reached by `reach`.
    ///
    /// # Errors
    /// When the action has no port, or no URL comes of it.
    pub(crate) fn of(
        action: &HTTPGetAction,
        host: &str,
        container: &Container,
        agent: &'static str,
        reach: Reach,
    ) -> Result<Get, String> {
        let port = port(&action.port, container)?;
        let url = url(action.scheme.as_deref(), host, port, action.path.as_deref().unwrap_or_default())?;
        let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        Ok(Get { url, headers, agent, reach })
    }

    /// Sends it for a hook, for which any answer will do. Takes as long as it takes. The answer says whether the server
    /// was asked for TLS and spoke none, so that it had to be asked again without; then nothing that authorizes is sent.
    ///
    /// # Errors
    /// What a client would have printed when there is no answer.
    pub(crate) async fn knock(self) -> Result<bool, String> {
        let plain = (self.url.scheme() == "https").then(|| self.without_tls()).flatten();
        // A body that broke off is an answer all the same.
        let Ok(Err(error)) = self.follow().await else { return Ok(false) };
        let Some(plain) = plain.filter(|_| error.ends_with(tls::SPOKE_HTTP)) else { return Err(error) };
        match plain.follow().await {
            Ok(Err(_)) => Err(error),
            _ => Ok(true),
        }
    }

    fn without_tls(&self) -> Option<Get> {
        // By hand: an URL does not change its scheme's default port with its scheme.
        let port = self.url.port_or_known_default()?;
        let mut url = self.url.clone();
        url.set_scheme("http").ok()?;
        url.set_port(Some(port)).ok()?;
        let secret = |name: &str| name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
        let headers = self.headers.iter().filter(|(name, _)| !secret(name)).cloned().collect();
        Some(Get { url, headers, agent: self.agent, reach: self.reach.clone() })
    }

    /// Sends it and follows where it leads.
    ///
    /// # Errors
    /// When the answer's body broke off: that says nothing of the server's health.
    pub(crate) async fn send(self, timeout: Duration) -> Result<Answered, String> {
        let first = shown(&self.url);
        match tokio::time::timeout(timeout, self.follow()).await {
            Ok(answer) => answer,
            Err(_) => Ok(Err(format!(
                "Get \"{first}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ))),
        }
    }

    async fn follow(mut self) -> Result<Answered, String> {
        let mut headers = match self.headers() {
            Ok(headers) => headers,
            Err(error) => return Ok(Err(format!("Get \"{}\": {error}", shown(&self.url)))),
        };
        for _ in 0..REQUESTS {
            let response = match self.exchange(&headers).await {
                Ok(response) => response,
                Err(error) => return Ok(Err(format!("Get \"{}\": {error}", shown(&self.url)))),
            };
            let Some((next, absolute)) = self.leads_to(&response.0) else { return read(response).await.map(Ok) };
            if next.host_str() != self.url.host_str() {
                return read(response).await.map(Ok);
            }
            if absolute {
                headers.remove(HOST);
            }
            self.url = next;
        }
        Ok(Err(format!("Get \"{}\": stopped after {REQUESTS} redirects", shown(&self.url))))
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = |what: &str, text: &str| format!("net/http: invalid header field {what} {text:?}");
            let key = HeaderName::try_from(name.as_str()).map_err(|_| wrong("name", name))?;
            let text = HeaderValue::try_from(value.as_str()).map_err(|_| wrong("value for", name))?;
            // One host only, and the first.
            if key != HOST || !headers.contains_key(HOST) {
                headers.append(key, text);
            }
        }
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(self.agent));
        if headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*")).is_empty() {
            headers.remove(ACCEPT);
        }
        if headers.get(HOST).is_some_and(HeaderValue::is_empty) {
            headers.remove(HOST);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(headers)
    }

    /// Where an answer sends us, and whether it names the whole address.
    fn leads_to(&self, response: &Response<Incoming>) -> Option<(Url, bool)> {
        let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().get(LOCATION).filter(|_| redirects)?.to_str().ok()?;
        Some((self.url.join(location).ok()?, Url::parse(location).is_ok()))
    }

    async fn exchange(&self, headers: &HeaderMap) -> Result<Answering, String> {
        let port = self.url.port_or_known_default().unwrap_or(80);
        // In brackets where it is an address of IPv6.
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let stream = self.reach.connect(host, port).await?;
        if self.url.scheme() == "https" {
            return self.talk(tls::connect(stream, host).await?, headers).await;
        }
        self.talk(stream, headers).await
    }

    async fn talk<S>(&self, stream: S, headers: &HeaderMap) -> Result<Answering, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let target = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let mut request = Request::get(target).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        *request.headers_mut() = headers.clone();
        if !headers.contains_key(HOST) {
            let host = HeaderValue::try_from(authority(&self.url)).map_err(|error| error.to_string())?;
            request.headers_mut().insert(HOST, host);
        }
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.title_case_headers(true);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| words(&e))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // What breaks it, the request tells.
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(|e| words(&e))?;
        Ok((response, driver))
    }
}

/// With its port, also where everybody knows it.
fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80))
}

fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), &url[Position::BeforePath..])
}

/// An answer whose body is still to come, and the task that brings it.
type Answering = (Response<Incoming>, AbortOnDropHandle<()>);

async fn read((response, _driver): Answering) -> Result<Answer, String> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while body.len() < BODY_MAX {
        match incoming.frame().await {
            None => break,
            Some(Ok(frame)) => body.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default()),
            Some(Err(error)) => return Err(words(&error)),
        }
    }
    body.truncate(BODY_MAX);
    Ok(Answer { status: head.status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn words(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { crate::worker::chain(error) }
}

#[cfg(test)]
mod tests;
