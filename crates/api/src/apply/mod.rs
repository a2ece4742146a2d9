//! Server-side apply: who owns which field, and what an applied configuration makes of an object.
//!
//! The algorithm is Kubernetes' (KEP-555, structured merge and diff): a manager's *set* holds the paths that
//! it last applied or changed. Applying merges the configuration into the live object, removes what the
//! manager applied before and now leaves out (unless somebody else owns it), and conflicts where a value
//! changes that another manager owns. `schema` says which lists are merged by key; `set` is the set of paths
//! and its JSON (`fieldsV1`); `value` walks objects; `managers` keeps `metadata.managedFields`.

mod managers;
mod schema;
mod set;
mod value;

pub(crate) use managers::{Conflict, Who, apply, update};
pub(crate) use schema::{CLAIM, EVENT, NAMESPACE, NODE, OBJECT, POD, Schema, VOLUME};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
