//! Image pulls of all workers: one pull per image at a time, however many pods wait for it, and a bound on pulls of
//! different images side by side. A pull that nobody waits for any more is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use podd_core::pod::Failure;
use tokio::sync::Semaphore;

use super::{
    act::{Pulled, pull_once},
    services::Services,
};

/// How many images are pulled at the same time.
const PARALLEL_PULLS: usize = 4;

type Answer = Result<Pulled, Failure>;
type Pull = BoxFuture<'static, Answer>;

/// The pulls under way.
#[derive(Clone)]
pub(crate) struct Pulls(Arc<Inner>);

struct Inner {
    running: Mutex<HashMap<String, WeakShared<Pull>>>,
    places: Semaphore,
}

impl Pulls {
    pub(crate) fn new() -> Pulls {
        Pulls(Arc::new(Inner { running: Mutex::default(), places: Semaphore::new(PARALLEL_PULLS) }))
    }

    /// Waits for an image: for the pull that is under way, or for a new one.
    pub(crate) async fn pull(&self, services: &Arc<Services>, image: &str) -> Answer {
        self.join(services, image).await
    }

    fn join(&self, services: &Arc<Services>, image: &str) -> Shared<Pull> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = running.get(image).and_then(WeakShared::upgrade) {
            return pull;
        }
        running.retain(|_, pull| pull.upgrade().is_some());
        let (inner, services, name) = (Arc::downgrade(&self.0), services.clone(), image.to_owned());
        let pull = async move {
            let Some(inner) = inner.upgrade() else {
                return Err(Failure { reason: "ErrImagePull".into(), message: "the agent is stopping".into() });
            };
            // The semaphore is never closed; without a place there would be no bound, and nothing worse.
            let _place = inner.places.acquire().await;
            let answer = pull_once(&services, &name).await;
            // Whoever asks from now on gets a pull of his own.
            inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            answer
        };
        let pull = pull.boxed().shared();
        if let Some(weak) = pull.downgrade() {
            running.insert(image.to_owned(), weak);
        }
        pull
    }
}
