//! Pod workers: one task per pod observes it through CRI, lets `podd_core` decide, acts, publishes, and waits.
//!
//! ```text
//!  sources ── Update ──►┌────────────┐── Wish (newest wins, grace only shrinks) ──► worker of the pod
//!  runtime ── events ──►│ Dispatcher │── wake ──►     observe ─► decide ─► act ─► wait ─┐
//!          ── relist ──►└────────────┘                   ▲      └► status ─► publisher  │
//!                                                        └──────────────────────────────┘
//! ```
//! The [`Dispatcher`] owns one task per pod uid. Runtime events wake the pod's worker; a slow relist compares what the
//! runtime has with what each worker saw last, so that a lost event does no harm and nothing is polled per pod.

mod act;
mod back_offs;
mod dispatcher;
mod last_words;
mod life;
mod machine;
pub(crate) mod names;
mod observe;
mod publishing;
mod pulls;
mod reports;
mod runtime_watch;
pub mod services;
mod table;
mod wish;

pub use crate::{downward::DefaultLimits, references::Unread};
pub(crate) use act::{chain, expand};
pub use dispatcher::{Dispatcher, Ender, Lookup};
pub use services::{
    Clock, HostVolume, PodObjects, PodResources, Prepared, PublishError, Services, Settings, Source, Update,
};
