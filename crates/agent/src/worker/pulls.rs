//! Image pulls of all workers: one pull per image and credentials at a time, however many pods wait for it, and a bound on
//! pulls side by side. Other credentials are another pull: a pod gets what its own open. A pull that nobody waits for any
//! more is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use podd_core::{pod::Failure, pull_secrets::Login};
use tokio::sync::Semaphore;

use super::{
    act::{Pulled, pull_once},
    services::Services,
};

/// How many images are pulled at the same time.
const PARALLEL_PULLS: usize = 4;

/// An image, and who asks for it.
type Wanted = (String, Vec<Login>);
type Answer = Result<Pulled, Failure>;
type Pull = BoxFuture<'static, Answer>;

/// The pulls under way.
#[derive(Clone)]
pub(crate) struct Pulls(Arc<Inner>);

struct Inner {
    running: Mutex<HashMap<Wanted, WeakShared<Pull>>>,
    places: Semaphore,
}

impl Pulls {
    pub(crate) fn new() -> Pulls {
        Pulls(Arc::new(Inner { running: Mutex::default(), places: Semaphore::new(PARALLEL_PULLS) }))
    }

    /// Waits for an image: for the pull that is under way, or for a new one.
    pub(crate) async fn pull(&self, services: &Arc<Services>, image: &str, logins: Vec<Login>) -> Answer {
        self.join(services, (image.to_owned(), logins)).await
    }

    fn join(&self, services: &Arc<Services>, wanted: Wanted) -> Shared<Pull> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = running.get(&wanted).and_then(WeakShared::upgrade) {
            return pull;
        }
        running.retain(|_, pull| pull.upgrade().is_some());
        let (inner, services, key) = (Arc::downgrade(&self.0), services.clone(), wanted.clone());
        let pull = async move {
            let Some(inner) = inner.upgrade() else {
                return Err(Failure { reason: "ErrImagePull".into(), message: "the agent is stopping".into() });
            };
            // The semaphore is never closed; without a place there would be no bound, and nothing worse.
            let _place = inner.places.acquire().await;
            let answer = pull_once(&services, &key.0, &key.1).await;
            // Whoever asks from now on gets a pull of his own.
            inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            answer
        };
        let pull = pull.boxed().shared();
        if let Some(weak) = pull.downgrade() {
            running.insert(wanted, weak);
        }
        pull
    }
}
