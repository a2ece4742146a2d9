//! Calls whose callers wait only so long (`grpc-timeout`): the transport would end them as cancelled, which is what a caller
//! who gave up looks like; here they end as `DeadlineExceeded`, a moment before.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tower::Service;

/// How long before the transport's end of a call ours comes.
const MOMENT: Duration = Duration::from_millis(5);

/// A service whose calls end in time.
#[derive(Clone, Debug)]
pub(super) struct InTime<S>(pub(super) S);

impl<S, B, R> Service<Request<B>> for InTime<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = limit(request.headers());
        let answer = self.0.call(request);
        match limit {
            None => Box::pin(answer),
            Some(limit) => Box::pin(async move {
                match tokio::time::timeout(limit.saturating_sub(MOMENT), answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(Status::deadline_exceeded("the call took longer than its caller waits").into_http()),
                }
            }),
        }
    }
}

/// At most eight digits and a unit. What is anything else is the transport's to refuse.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Duration> {
        limit(&HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), text.parse().unwrap())]))
    }

    #[test]
    fn a_limit_is_a_number_and_a_unit() {
        for (text, limit) in [
            ("2S", Duration::from_secs(2)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("7n", Duration::from_nanos(7)),
            ("3M", Duration::from_secs(180)),
        ] {
            assert_eq!(of(text), Some(limit), "{text}");
        }
        for text in ["", "S", "-1S", "1.5S", "123456789S", "1s", "1 S", "S1"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(limit(&HeaderMap::new()), None);
    }
}
