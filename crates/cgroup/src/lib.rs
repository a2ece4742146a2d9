//! podd-cgroup.
