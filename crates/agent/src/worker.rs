//! Pod workers: one task per pod observes it through CRI, lets `podd_core` decide, acts, publishes, and waits.

pub mod services;

pub use services::{Clock, PodObjects, PodResources, Prepared, PublishError, Services, Settings, Source, Update};
