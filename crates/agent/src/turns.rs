//! Turns: of those who work on the same thing, one at a time, in the order in which they came. A turn is held across
//! calls, so that what was read at its begin is still true of what is written at its end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// Turns by name.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

/// A turn; over when this goes.
pub(crate) struct Turn(#[expect(dead_code, reason = "held, not read")] OwnedMutexGuard<()>);

impl Turns {
    /// Waits for a turn.
    pub(crate) async fn take(&self, name: &str) -> Turn {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match places.get(name).and_then(Weak::upgrade) {
                Some(place) => place,
                None => {
                    places.retain(|_, place| place.strong_count() > 0);
                    let place = Arc::default();
                    places.insert(name.to_owned(), Arc::downgrade(&place));
                    place
                }
            }
        };
        Turn(place.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_has_the_turn_of_a_name() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let other = turns.take("b").now_or_never();
        assert!(other.is_some(), "another name waits for nobody");
        assert!(turns.take("a").now_or_never().is_none());
        drop(first);
        assert!(turns.take("a").now_or_never().is_some());
    }
}
