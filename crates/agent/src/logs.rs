//! Container logs in the CRI format: parsing lines, reading one container's files in order across rotations, tail from the
//! end backwards, and following a file that is written and rotated meanwhile.
//!
//! [`line`] and [`reader`] are synchronous and know nothing of the network; [`follow`] drives a reader and sends what it
//! gives to an HTTP body.

pub mod files;
pub mod follow;
pub mod line;
pub mod reader;
pub mod tail;

use jiff::Timestamp;

/// What part of a log is wanted, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only lines at or after this time.
    pub since: Option<Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only this many last lines.
    pub tail: Option<u64>,
    /// Stop after this many bytes.
    pub limit_bytes: Option<u64>,
    /// Go on while the container runs.
    pub follow: bool,
}
