//! Those who are attached to a container's output and hear it as it comes. The container and its log come first: who does
//! not keep up is cut off.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::log::Channel;

/// Those of one container at a time.
const MOST: usize = 64;

/// Pipes that are written to.
#[derive(Debug, Default)]
pub(crate) struct Audience(Vec<Listener>);

#[derive(Debug)]
struct Listener {
    channel: Channel,
    /// Does not block.
    pipe: OwnedFd,
}

impl Audience {
    /// Whether so many more may come, once those are forgotten who have left. Who hears nothing, of a stream on which nothing
    /// comes, is not missed before.
    pub(crate) fn has_room(&mut self, more: usize) -> bool {
        self.0.retain(|listener| has_reader(&listener.pipe));
        self.0.len() + more <= MOST
    }

    pub(crate) fn join(&mut self, channel: Channel, pipe: OwnedFd) {
        self.0.push(Listener { channel, pipe });
    }

    /// Passes on what was read. A pipe that does not take all of it now has a reader that is too slow, or none: closing it
    /// tells the reader, where a gap in the bytes would not.
    pub(crate) fn hear(&mut self, channel: Channel, bytes: &[u8]) {
        let took = |pipe: &OwnedFd| rustix::io::write(pipe.as_fd(), bytes) == Ok(bytes.len());
        self.0.retain(|listener| listener.channel != channel || took(&listener.pipe));
    }

    /// No more will come on this channel.
    pub(crate) fn end(&mut self, channel: Channel) {
        self.0.retain(|listener| listener.channel != channel);
    }
}

/// A pipe's writing end is in error when nobody can read from the other one.
fn has_reader(pipe: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(pipe, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !poll(&mut asked, Some(&now)).is_ok_and(|_| asked[0].revents().contains(PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_without_hearing_anything_makes_room() {
        let mut audience = Audience::default();
        let pipes: Vec<_> = (0..MOST).map(|_| std::io::pipe().expect("a pipe")).collect();
        let readers: Vec<_> = pipes
            .into_iter()
            .map(|(reader, writer)| {
                audience.join(Channel::Stderr, writer.into());
                reader
            })
            .collect();
        assert!(!audience.has_room(1));
        drop(readers);
        assert!(audience.has_room(MOST));
    }
}
