//! Requests that never reach a service: what the transport says of them, in the codes that CRI's clients tell apart.

use http::Response;
use tonic::{Code, Status};

use crate::MAX_MESSAGE;

/// How tonic begins when a request is longer than it may be.
const TOO_LONG: &str = "Error, decoded message length too large";
/// How prost begins when a request is no message; what follows names the field.
const MALFORMED: &str = "failed to decode Protobuf message";

/// A request that is too long exhausts a limit (tonic says it is out of range), one that is no message is the caller's
/// mistake (tonic says that the server's insides are broken). Everything else passes.
pub(super) fn corrected<B>(mut response: Response<B>) -> Response<B> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let status = match status.code() {
        Code::OutOfRange if status.message().starts_with(TOO_LONG) => {
            let rest = status.message().trim_start_matches(TOO_LONG);
            Status::resource_exhausted(format!("the request is longer than {} MiB{rest}", MAX_MESSAGE >> 20))
        }
        Code::Internal if status.message().starts_with(MALFORMED) => Status::invalid_argument(status.message()),
        _ => return response,
    };
    // A text that fits no header cannot come of one.
    if status.add_header(response.headers_mut()).is_err() {
        tracing::debug!(%status, "a status fits no header");
    }
    response
}
