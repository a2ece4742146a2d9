//! The answers of refused requests: `Status` objects with upstream's codes, reasons, messages and causes.

use std::collections::BTreeMap;
use std::fmt::Display;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use podd_core::field::FieldError;
use serde_json::{Value, json};

use crate::apply::Conflict;
use crate::decode::TypeProblem;
use crate::kinds::Kind;

/// A request that is refused, as it is told to the client.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Box<Body>);

#[derive(Debug, Clone)]
struct Body {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
    retry_after: Option<u32>,
    /// A problem whose field is still to be found.
    unlocated: Option<TypeProblem>,
}

impl Failure {
    pub(crate) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Body {
            code,
            reason,
            message: message.into(),
            details: None,
            retry_after: None,
            unlocated: None,
        }))
    }

    fn details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    fn about(self, kind: &Kind, name: &str) -> Self {
        self.details(details(kind, name))
    }

    /// The request cannot be understood.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// A body that is no such object: each cause names a field.
    pub(crate) fn bad_fields(message: impl Into<String>, errors: &[FieldError]) -> Self {
        Self::bad_request(message).details(json!({ "causes": causes(errors) }))
    }

    /// A body that is no such object, or a patch that makes it none. `cannot` says so; where the wrong value is,
    /// [`Failure::located`] finds.
    pub(crate) fn mistyped(cannot: String, problem: TypeProblem) -> Self {
        let mut failure = Self::bad_request(cannot);
        failure.0.unlocated = Some(problem);
        failure
    }

    /// Whether [`Failure::located`] has something to do.
    pub(crate) fn is_unlocated(&self) -> bool {
        self.0.unlocated.is_some()
    }

    /// The failure as it is told. Finding the field of a wrong type can take half a second: not for a thread that
    /// others wait for.
    pub(crate) fn located(mut self) -> Self {
        let Some(problem) = self.0.unlocated.take() else {
            return self;
        };
        let cannot = &self.0.message;
        let (path, message) = problem.located();
        if path.is_empty() {
            return Self::bad_request(format!("{cannot}: {message}"));
        }
        let told = format!("{cannot}: {path}: {message}");
        let mut wrong = FieldError::invalid(path, Value::Null, message);
        wrong.reason = podd_core::field::Reason::TypeInvalid;
        wrong.value = None;
        Self::bad_fields(told, &[wrong])
    }

    /// No such path.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
            .details(json!({}))
    }

    /// No such object.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    /// The name is taken.
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// The object is not the one, or not in the state, that the client thinks.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// The object was changed since the client read it.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; \
                   please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// Fields that other managers own with other values.
    pub(crate) fn apply_conflict(conflicts: &[Conflict]) -> Self {
        let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Conflict { manager, path } in conflicts {
            by_manager.entry(manager).or_default().push(path);
        }
        let text = match conflicts {
            [one] => format!("1 conflict: conflict with {}: {}", one.manager, one.path),
            many => {
                let mut text = format!("{} conflicts:", many.len());
                for (n, (manager, paths)) in by_manager.iter().enumerate() {
                    text.push(if n == 0 { ' ' } else { '\n' });
                    text.push_str(&format!("conflicts with {manager}:\n- {}", paths.join("\n- ")));
                }
                text
            }
        };
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|Conflict { manager, path }| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager}"),
                    "field": path,
                })
            })
            .collect();
        Self::new(StatusCode::CONFLICT, "Conflict", format!("Apply failed with {text}"))
            .details(json!({ "causes": causes }))
    }

    /// The object breaks the rules of its kind.
    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_as(kind.kind, kind.group, name, errors)
    }

    /// The same for what is no kind of the table: options of a verb.
    pub(crate) fn invalid_as(kind: &str, group: &str, name: &str, errors: &[FieldError]) -> Self {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = match list.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.into() } else { format!("{kind}.{group}") };
        let message = format!("{qualified} \"{name}\" is invalid: {text}");
        let mut details = json!({"kind": kind, "causes": causes(errors)});
        if !name.is_empty() {
            details["name"] = name.into();
        }
        if !group.is_empty() {
            details["group"] = group.into();
        }
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).details(details)
    }

    /// A patch that does not fit the object.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// The request is understood and may not be done.
    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.resource());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name)
    }

    /// A namespace that is going away takes nothing new.
    pub(crate) fn namespace_terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut details = details(kind, name);
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Self::forbidden(kind, name, &why).details(details)
    }

    /// The version asked for is no longer known.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The version asked for is not there yet.
    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).details(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }))
    }

    /// The resource has no such verb.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .details(json!({}))
    }

    /// A part of an object has no such verb (watch, for one).
    pub(crate) fn not_supported(kind: &Kind, part: &str, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{}/{part}\"", kind.resource());
        let details = json!({"group": kind.group, "kind": format!("{}/{part}", kind.plural)});
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).details(details)
    }

    /// The body is in no format that is read here.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// The client reads no format that is written here.
    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, application/yaml";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// A body, or what it asks for, is too large.
    pub(crate) fn too_large(why: impl Display) -> Self {
        let message = format!("Request entity too large: {why}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// Something behind this server is not there now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
        failure.0.retry_after = Some(1);
        failure
    }

    /// Our own fault, or the disk's.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = format!("Internal error occurred: {}", message.into());
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> StatusCode {
        self.0.code
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let body = &*self.0;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": body.message, "reason": body.reason, "code": body.code.as_u16(),
        });
        if let Some(details) = &body.details {
            status["details"] = details.clone();
        }
        if let Some(seconds) = body.retry_after {
            status["details"]["retryAfterSeconds"] = seconds.into();
        }
        status
    }
}

/// `details` of a `Status`: which object it is about.
pub(crate) fn details(kind: &Kind, name: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    details
}

fn causes(errors: &[FieldError]) -> Vec<Value> {
    errors.iter().map(|e| json!({"reason": e.reason.cause(), "message": e.message(), "field": e.path})).collect()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.0.code, self.status().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
