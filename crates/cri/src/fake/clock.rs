//! Time as the fake sees it: handed in, never looked up.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

/// Where the fake gets its time from. Nanoseconds since the Unix epoch.
pub trait Clock: Send + Sync + 'static {
    /// The time now; never goes back.
    fn now(&self) -> i64;
    /// Done once it is `at`.
    fn sleep_until(&self, at: i64) -> BoxFuture<'static, ()>;
}

/// Stands still until somebody moves it.
#[derive(Clone, Debug)]
pub struct ManualClock(watch::Sender<i64>);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: i64) -> Self {
        Self(watch::Sender::new(start))
    }

    /// Moves it on, and wakes who waited for that.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.saturating_add(nanos(by)));
    }

    /// Moves it to `at`, unless it is later already.
    pub fn set(&self, at: i64) {
        self.0.send_modify(|now| *now = at.max(*now));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> i64 {
        *self.0.borrow()
    }

    fn sleep_until(&self, at: i64) -> BoxFuture<'static, ()> {
        let mut clock = self.0.subscribe();
        async move {
            if clock.wait_for(|now| *now >= at).await.is_err() {
                // The clock is gone: it will never be later.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// Follows tokio's clock, which a test pauses; the only tie to it is `start`.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: i64,
    began: Instant,
}

impl TokioClock {
    /// A clock that shows `start` now.
    #[must_use]
    pub fn new(start: i64) -> Self {
        Self { start, began: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> i64 {
        self.start.saturating_add(nanos(self.began.elapsed()))
    }

    fn sleep_until(&self, at: i64) -> BoxFuture<'static, ()> {
        let after = u64::try_from(at.saturating_sub(self.start)).unwrap_or(0);
        tokio::time::sleep_until(self.began + Duration::from_nanos(after)).boxed()
    }
}

/// A duration as the protocol counts it.
pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
