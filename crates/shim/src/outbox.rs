//! What goes out to runtimes: answers to their calls, and events.

use std::os::fd::OwnedFd;

use podd_shim::wire::{Event, Response, ShimError};

use crate::fault::Outcome;
use crate::poller::Serial;

/// Who called, and under which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) client: Serial,
    pub(crate) seq: u64,
}

/// An answer on its way, with the descriptors that go along.
pub(crate) struct Answer {
    pub(crate) caller: Caller,
    pub(crate) result: Result<Response, ShimError>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What is to be sent after something has happened. Events go first: an exit is told before whoever asked for it hears
/// that it was done.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) events: Vec<Event>,
    pub(crate) answers: Vec<Answer>,
}

impl Outbox {
    /// Answers whoever waits, once.
    pub(crate) fn answer(&mut self, caller: &mut Option<Caller>, result: Outcome<Response>) {
        self.answer_with(caller, result, Vec::new());
    }

    pub(crate) fn answer_with(&mut self, caller: &mut Option<Caller>, result: Outcome<Response>, fds: Vec<OwnedFd>) {
        if let Some(caller) = caller.take() {
            self.answers.push(Answer { caller, result, fds });
        }
    }
}
