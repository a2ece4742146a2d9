//! Which ids a user namespace maps, as a sandbox, a container or a mount says it.

use podd_cri::v1::{IdMapping, NamespaceMode, UserNamespace};
use podd_shim::wire::{IdMaps, IdRange};

use crate::error::{CriError, Result};

/// The ids of a pod's own user namespace; none for the machine's. As the kubelet does it there is one range of each kind
/// and it holds id 0.
pub(crate) fn plan(user: &UserNamespace) -> Result<Option<IdMaps>> {
    match NamespaceMode::try_from(user.mode) {
        Ok(NamespaceMode::Node) => return Ok(None),
        // What a caller sends that has never heard of them: an empty message.
        Ok(NamespaceMode::Pod) if user.uids.is_empty() && user.gids.is_empty() => return Ok(None),
        Ok(NamespaceMode::Pod) => {}
        _ => return Err(CriError::invalid(format!("userns_options.mode {} must be POD or NODE", user.mode))),
    }
    for (field, mappings) in [("uids", &user.uids), ("gids", &user.gids)] {
        let refuse = |why: &str| Err(CriError::invalid(format!("userns_options.{field} {why}")));
        match mappings.as_slice() {
            [one] if one.container_id == 0 => {}
            [_] => return refuse("does not map id 0 of the container"),
            [] => return refuse("maps nothing"),
            _ => return refuse("has more than one mapping"),
        }
    }
    ids("userns_options", &user.uids, &user.gids).map(Some)
}

/// The ids of a mount, or none.
pub(crate) fn of_mount(uids: &[IdMapping], gids: &[IdMapping]) -> Result<Option<IdMaps>> {
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => ids("mappings", uids, gids).map(Some),
        _ => Err(CriError::invalid("uidMappings and gidMappings need each other")),
    }
}

fn ids(what: &str, uids: &[IdMapping], gids: &[IdMapping]) -> Result<IdMaps> {
    Ok(IdMaps { uids: ranges(&format!("{what}.uids"), uids)?, gids: ranges(&format!("{what}.gids"), gids)? })
}

fn ranges(field: &str, mappings: &[IdMapping]) -> Result<Vec<IdRange>> {
    /// The kernel's own limit (user_namespaces(7)).
    const MOST: usize = 340;
    if mappings.len() > MOST {
        return Err(CriError::invalid(format!("{field} has more than {MOST} mappings")));
    }
    let range = |mapping: &IdMapping| {
        let IdMapping { host_id, container_id, length } = *mapping;
        // The last id of all means "none" to the kernel.
        let fits = |first: u32| first.checked_add(length).is_some();
        if length == 0 || !fits(host_id) || !fits(container_id) {
            let text = format!("{field}: {length} ids from {container_id} to {host_id} are no range");
            return Err(CriError::invalid(text));
        }
        Ok(IdRange { inside: container_id, outside: host_id, count: length })
    };
    mappings.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping { host_id, container_id, length }
    }

    fn pod(uids: &[IdMapping], gids: &[IdMapping]) -> UserNamespace {
        UserNamespace { mode: NamespaceMode::Pod as i32, uids: uids.to_vec(), gids: gids.to_vec() }
    }

    #[test]
    fn a_pod_has_one_range_of_each_kind_from_id_0() {
        let ids = plan(&pod(&[mapping(0, 65536, 65536)], &[mapping(0, 131_072, 10)])).unwrap().unwrap();
        assert_eq!(ids.outside(5, 5), Some((65541, 131_077)));
        assert_eq!(ids.outside(65535, 9), Some((131_071, 131_081)));
        assert_eq!(ids.outside(0, 10), None);
        for namespace in
            [pod(&[], &[]), UserNamespace { mode: NamespaceMode::Node as i32, ..pod(&[mapping(0, 1, 1)], &[]) }]
        {
            assert_eq!(plan(&namespace).unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_user_namespace_of_a_pod_is_refused_with_the_field() {
        let good = [mapping(0, 65536, 65536)];
        let with = |mode: NamespaceMode| UserNamespace { mode: mode as i32, ..pod(&good, &good) };
        for (namespace, word) in [
            (pod(&[mapping(1, 65536, 65536)], &good), "uids does not map id 0"),
            (pod(&good, &[mapping(0, 65536, 1), mapping(1, 100_000, 1)]), "gids has more than one"),
            (pod(&good, &[]), "gids maps nothing"),
            (pod(&[mapping(0, 65536, 0)], &good), "no range"),
            (pod(&[mapping(0, u32::MAX, 1)], &good), "no range"),
            (with(NamespaceMode::Container), "mode 1"),
            (with(NamespaceMode::Target), "mode 3"),
            (UserNamespace { mode: 9, ..pod(&good, &good) }, "mode 9"),
        ] {
            let error = plan(&namespace).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_mount_has_both_mappings_or_none() {
        let good = [mapping(0, 65536, 65536), mapping(70000, 3, 1)];
        assert_eq!(of_mount(&[], &[]).unwrap(), None);
        assert_eq!(of_mount(&good, &good).unwrap().unwrap().outside(70000, 1), Some((3, 65537)));
        assert!(of_mount(&good, &[]).is_err());
        assert!(of_mount(&[mapping(0, 0, 1); 341], &good).is_err());
    }
}
