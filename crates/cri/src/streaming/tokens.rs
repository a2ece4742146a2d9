//! Requests that wait to be dialled, each under a token that works once and not for long.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How long a token works.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);
/// How many may wait at a time.
pub(super) const MAX_WAITING: usize = 1000;

/// Too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Values by token, oldest first.
pub(super) struct Tokens<T> {
    waiting: HashMap<String, T>,
    /// With the time at which each ends. All live equally long, so the front ends first; a token that
    /// was used stays here until then.
    ends: VecDeque<(Instant, String)>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), ends: VecDeque::new() }
    }
}

impl<T> Tokens<T> {
    pub(super) fn insert(&mut self, now: Instant, token: String, value: T) -> Result<(), Full> {
        self.expire(now);
        if self.waiting.len() >= MAX_WAITING {
            return Err(Full);
        }
        self.ends.push_back((now + LIFETIME, token.clone()));
        self.waiting.insert(token, value);
        Ok(())
    }

    /// The value, to whoever comes first and in time.
    pub(super) fn take(&mut self, now: Instant, token: &str) -> Option<T> {
        self.expire(now);
        let value = self.waiting.remove(token)?;
        self.ends.retain(|(_, other)| other != token);
        Some(value)
    }

    fn expire(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, token)) = self.ends.pop_front() {
                self.waiting.remove(&token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once() {
        let (now, mut tokens) = (Instant::now(), Tokens::default());
        tokens.insert(now, "a".into(), 1).unwrap();
        assert_eq!(tokens.take(now, "b"), None);
        assert_eq!(tokens.take(now, "a"), Some(1));
        assert_eq!(tokens.take(now, "a"), None);
    }

    #[test]
    fn a_token_ends_after_a_minute() {
        let (now, mut tokens) = (Instant::now(), Tokens::default());
        tokens.insert(now, "a".into(), 1).unwrap();
        tokens.insert(now + LIFETIME / 2, "b".into(), 2).unwrap();
        assert_eq!(tokens.take(now + LIFETIME, "a"), None);
        assert_eq!(tokens.take(now + LIFETIME, "b"), Some(2));
    }

    #[test]
    fn a_thousand_may_wait_and_the_old_make_room() {
        let (now, mut tokens) = (Instant::now(), Tokens::default());
        for n in 0..MAX_WAITING {
            tokens.insert(now, n.to_string(), n).unwrap();
        }
        assert_eq!(tokens.insert(now, "more".into(), 0), Err(Full));
        assert_eq!(tokens.take(now, "7"), Some(7));
        assert_eq!(tokens.insert(now, "more".into(), 0), Ok(()));
        assert_eq!(tokens.insert(now, "still more".into(), 0), Err(Full));
        assert_eq!(tokens.insert(now + LIFETIME, "later".into(), 0), Ok(()));
        assert_eq!(tokens.waiting.len(), 1);
        assert_eq!(tokens.ends.len(), 1);
    }
}
