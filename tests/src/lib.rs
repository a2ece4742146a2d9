//! The harness of the black-box tests: a [`Node`] per test, images made from Debian packages, waiting with a deadline.
//!
//! A test that fails says what it saw; whatever happens it leaves the machine as it was, also when it is killed: a
//! process beside it ([`keeper`]) ends every process of the node and removes its control groups and its directory.
#![allow(clippy::unwrap_used, reason = "a harness that cannot do its work fails the test")]

pub mod image;
pub mod keeper;
mod nft;
mod node;
mod output;
mod outside;

use std::time::{Duration, Instant};

pub use node::{Node, program};
pub use output::Output;
pub use outside::Outside;

/// How long a test waits for what should happen at once, on a machine that has other things to do.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `look` gives a value.
///
/// # Panics
/// When it has given none by the deadline; the message names `what`, and the last thing seen.
pub fn wait_for<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > end => panic!("{what}: not within {deadline:?}; last seen: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
