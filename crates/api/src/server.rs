//! HTTP: from requests to verbs, and from their outcomes to responses.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::body;
use crate::config::{Clock, KubeletTransport};
use crate::discovery;
use crate::failure::{self, Failure};
use crate::kinds::{Context, Kind, Subresource};
use crate::list::{self, ListOptions};
use crate::proxy;
use crate::query::{DeleteOptions, Query, WriteOptions};
use crate::selector::Selector;
use crate::store::{Key, Object, Store, Transaction, Weight};
use crate::target::Target;
use crate::verbs::{self, Deleted, Patch, Written};
use crate::warning::warn;
use crate::watch::{self, WatchOptions};

/// What every request has at hand.
pub(crate) struct Server {
    pub(crate) store: Arc<Store>,
    pub(crate) node_name: String,
    pub(crate) clock: Clock,
    pub(crate) kubelet: RwLock<Option<KubeletTransport>>,
}

type Answer = Result<Response, Failure>;

/// The routes: fixed paths first, everything else is a resource path.
pub(crate) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/version", get(version))
        .route("/healthz", get(|| async { "ok" }))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/api", get(core_discovery))
        .route("/apis", get(group_discovery))
        // Clients that are generated from Kubernetes' OpenAPI document write these with a slash at the end.
        .route("/version/", get(version))
        .route("/api/", get(core_discovery))
        .route("/apis/", get(group_discovery))
        .fallback(resource)
        .with_state(server)
}

async fn version() -> Response {
    json_response(StatusCode::OK, &discovery::version())
}

async fn core_discovery(headers: HeaderMap) -> Response {
    discover(&headers, true, discovery::core_versions)
}

async fn group_discovery(headers: HeaderMap) -> Response {
    discover(&headers, false, discovery::groups)
}

fn discover(headers: &HeaderMap, core: bool, plain: fn() -> Value) -> Response {
    if !discovery::wants_aggregated(accept(headers)) {
        return json_response(StatusCode::OK, &plain());
    }
    let mut response = json_response(StatusCode::OK, &discovery::aggregated(core));
    let media_type = HeaderValue::from_static(discovery::AGGREGATED);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

async fn resource(State(server): State<Arc<Server>>, request: Request) -> Response {
    match server.serve(request).await {
        Ok(response) => response,
        Err(failure) if failure.is_unlocated() => {
            let located = tokio::task::spawn_blocking(|| failure.located()).await;
            located.unwrap_or_else(|_| Failure::internal("the look for the wrong field panicked")).into_response()
        }
        Err(failure) => failure.into_response(),
    }
}

impl Server {
    pub(crate) fn context(&self) -> Context {
        Context { node_name: self.node_name.clone(), now: verbs::rfc3339(self.clock.now()) }
    }

    async fn serve(self: Arc<Self>, request: Request) -> Answer {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if request.method() == Method::GET {
            match parts.as_slice() {
                ["api", version] => return found(discovery::resources("", version)),
                ["apis", group] => return found(discovery::group_of(group)),
                ["apis", group, version] => return found(discovery::resources(group, version)),
                _ => {}
            }
        }
        let target = Target::parse(&path)?;
        let query = Query::parse(request.uri())?;
        if let Some(part) = target.subresource
            && query.flag("watch")
        {
            return Err(Failure::not_supported(target.kind, part.name(), "watch"));
        }
        match target.subresource {
            Some(Subresource::Log) => return proxy::log(&self, &target, &query, request).await,
            Some(Subresource::Exec) => return proxy::exec(&self, &target, &query, request).await,
            Some(Subresource::Attach) => return proxy::attach(&self, &target, &query, request).await,
            Some(Subresource::PortForward) => return proxy::port_forward(&self, &target, &query, request).await,
            Some(Subresource::Status | Subresource::EphemeralContainers) | None => {}
        }
        check_accept(request.headers())?;
        let (parts, body) = request.into_parts();
        let named = target.name.is_some();
        match (parts.method, named) {
            (Method::GET, _) if query.flag("watch") => self.watch(target, &query),
            (Method::GET, true) => self.get(&target),
            (Method::GET, false) => {
                let options = ListOptions::parse(target.kind, &query)?;
                list::list(self.store.read(), &target, &options).map(json_bytes)
            }
            (Method::POST, false) => self.create(target, &query, &parts.headers, body).await,
            (Method::PUT, true) => self.replace(target, &query, &parts.headers, body).await,
            (Method::PATCH, true) => self.patch(target, &query, &parts.headers, body).await,
            (Method::DELETE, _) if target.subresource.is_none() => {
                self.delete(target, &query, &parts.headers, body).await
            }
            _ => Err(Failure::method_not_allowed()),
        }
    }

    fn watch(&self, target: Target, query: &Query) -> Answer {
        let options = WatchOptions::parse(target.kind, query)?;
        let stream = watch::watch(self.store.clone(), target, options);
        Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response())
    }

    fn get(&self, target: &Target) -> Answer {
        let object = self.object(target)?;
        Ok(json_bytes(object.json.clone()))
    }

    /// The object that a path names, as it is published.
    pub(crate) fn object(&self, target: &Target) -> Result<Arc<Object>, Failure> {
        let key = key(target);
        let object = self.store.read().get(target.kind, &key);
        object.ok_or_else(|| Failure::not_found(target.kind, &key.name))
    }

    async fn create(&self, mut target: Target, query: &Query, headers: &HeaderMap, body: Body) -> Answer {
        let options = write_options(query, headers)?;
        let document = body::parse(body::media_type(headers), &body::read(body).await?)?;
        if target.kind.namespaced && target.namespace.is_none() {
            // A namespaced kind is created within a namespace; the bare path means the object's own.
            let own = document.value["metadata"]["namespace"].as_str().unwrap_or("default");
            target.namespace = Some(own.to_owned());
        }
        let mut warnings = Vec::new();
        let object = verbs::read_object(target.kind, document, options.validation, &mut warnings)?;
        let context = self.context();
        self.write(&target, options.dry_run, move |transaction, target| {
            verbs::create(transaction, target, object, &options, &context, warnings)
        })
        .await
    }

    async fn replace(&self, target: Target, query: &Query, headers: &HeaderMap, body: Body) -> Answer {
        let options = write_options(query, headers)?;
        let document = body::parse(body::media_type(headers), &body::read(body).await?)?;
        let mut warnings = Vec::new();
        let object = verbs::read_object(target.kind, document, options.validation, &mut warnings)?;
        let context = self.context();
        self.write(&target, options.dry_run, move |transaction, target| {
            verbs::replace(transaction, target, object, &options, &context, warnings)
        })
        .await
    }

    async fn patch(&self, target: Target, query: &Query, headers: &HeaderMap, body: Body) -> Answer {
        let options = write_options(query, headers)?;
        let patch = Patch::parse(body::media_type(headers), &body::read(body).await?, target.subresource)?;
        verbs::check_options(&patch, &options)?;
        let context = self.context();
        self.write(&target, options.dry_run, move |transaction, target| {
            verbs::patch(transaction, target, patch, &options, &context)
        })
        .await
    }

    /// Runs a verb on the store and answers with the written object.
    async fn write(
        &self,
        target: &Target,
        dry_run: bool,
        work: impl FnOnce(&mut Transaction<'_>, &Target) -> Result<Written, Failure> + Send + 'static,
    ) -> Answer {
        let weight = weight(target);
        let target = target.clone();
        let work = move |transaction: &mut Transaction<'_>| work(transaction, &target);
        let Written { object, created, warnings } = self.store.write(weight, dry_run, work).await?;
        let code = if created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = json_bytes(object.json.clone());
        *response.status_mut() = code;
        warn(response.headers_mut(), &warnings);
        Ok(response)
    }

    async fn delete(&self, target: Target, query: &Query, headers: &HeaderMap, body: Body) -> Answer {
        let bytes = body::read(body).await?;
        let options = DeleteOptions::parse(query, body::media_type(headers), &bytes)?;
        let context = self.context();
        let kind = target.kind;
        let dry_run = options.dry_run;
        if target.name.is_none() {
            let selector = Selector::parse(kind, query.text("labelSelector"), query.text("fieldSelector"))?;
            let namespace = target.namespace;
            let work = move |transaction: &mut Transaction<'_>| {
                let namespace = namespace.as_deref();
                verbs::delete_collection(transaction, kind, namespace, &selector, &options, &context)
            };
            let deleted = self.store.write(Weight::Full, dry_run, work).await?;
            let revision = self.store.read().revision.to_string();
            let metadata = json!({"resourceVersion": revision});
            return Ok(json_bytes(list::render(kind, &metadata, &deleted)));
        }
        let key = key(&target);
        let work = move |transaction: &mut Transaction<'_>| verbs::delete(transaction, kind, &key, &options, &context);
        let Deleted { object, gone } = self.store.write(Weight::Full, dry_run, work).await?;
        if gone && !kind.returns_deleted {
            return Ok(json_response(StatusCode::OK, &success(kind, &object)));
        }
        Ok(json_bytes(object.json.clone()))
    }
}

fn key(target: &Target) -> Key {
    Key::new(target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default())
}

/// What is observed is light, what is wanted is not.
fn weight(target: &Target) -> Weight {
    if target.kind.transient || target.subresource == Some(Subresource::Status) { Weight::Light } else { Weight::Full }
}

fn write_options(query: &Query, headers: &HeaderMap) -> Result<WriteOptions, Failure> {
    let user_agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
    WriteOptions::parse(query, user_agent.unwrap_or_default())
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// One of the acceptable types must be plain JSON; others may come first (tables, protobuf).
fn check_accept(headers: &HeaderMap) -> Result<(), Failure> {
    let accept = accept(headers);
    let fits = |choice: &str| {
        let mut parts = choice.split(';').map(str::trim);
        let json = matches!(parts.next(), Some("application/json" | "application/*" | "*/*"));
        json && !parts.any(|parameter| parameter.starts_with("as="))
    };
    if accept.is_empty() || accept.split(',').any(fits) { Ok(()) } else { Err(Failure::not_acceptable()) }
}

/// The `Status` of a deletion that does not answer with the object.
fn success(kind: &Kind, object: &Object) -> Value {
    let mut details = failure::details(kind, &object.key.name);
    details["uid"] = object.value()["metadata"]["uid"].clone();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    })
}

fn found(value: Result<Value, Failure>) -> Answer {
    value.map(|value| json_response(StatusCode::OK, &value))
}

fn json_response(code: StatusCode, value: &Value) -> Response {
    let mut response = json_bytes(value.to_string().into());
    *response.status_mut() = code;
    response
}

fn json_bytes(json: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

impl Server {
    /// The way to the node's kubelet, if there is one yet.
    pub(crate) fn kubelet(&self) -> Option<KubeletTransport> {
        self.kubelet.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests;
