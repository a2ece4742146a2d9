//! What a request's path names.

use crate::failure::Failure;
use crate::kinds::{KINDS, Kind, Subresource};

/// A resource path.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// The namespace of the path; none for kinds without one and for "in all namespaces".
    pub(crate) namespace: Option<String>,
    /// None for a collection.
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<Subresource>,
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    pub(crate) fn parse(path: &str) -> Result<Self, Failure> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let parts: Vec<String> = path
            .trim_end_matches('/')
            .split('/')
            .map(decode)
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::bad_request("the path has a malformed percent sign"))?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(Failure::no_route()),
        };
        let find = |plural: &str| KINDS.iter().find(|k| k.plural == plural && k.group == group && k.version == version);
        let (namespace, plural, rest) = match rest {
            // `namespaces/x/status` is the namespace's own, any other third part is a kind in it.
            ["namespaces", namespace, plural, rest @ ..] if find(plural).is_some() => (Some(*namespace), *plural, rest),
            [plural, rest @ ..] => (None, *plural, rest),
            [] => return Err(Failure::no_route()),
        };
        let kind = find(plural).ok_or_else(Failure::no_route)?;
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, sub] => {
                let sub = kind.subresources.iter().find(|s| s.name() == *sub);
                (Some(*name), Some(*sub.ok_or_else(Failure::no_route)?))
            }
            _ => return Err(Failure::no_route()),
        };
        let misplaced = match namespace {
            Some(namespace) => !kind.namespaced || namespace.is_empty(),
            None => kind.namespaced && name.is_some(),
        };
        if misplaced || name == Some("") {
            return Err(Failure::no_route());
        }
        Ok(Self { kind, namespace: namespace.map(Into::into), name: name.map(Into::into), subresource })
    }
}

/// Undoes percent encoding; none when it is malformed.
fn decode(part: &str) -> Option<String> {
    if !part.contains('%') {
        return Some(part.to_owned());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str) -> Option<String> {
        let t = Target::parse(path).ok()?;
        Some(format!(
            "{} {} {} {}",
            t.kind.plural,
            t.namespace.as_deref().unwrap_or("-"),
            t.name.as_deref().unwrap_or("-"),
            t.subresource.map_or("-", Subresource::name),
        ))
    }

    #[test]
    fn paths_name_their_resources() {
        let table = [
            ("/api/v1/pods", Some("pods - - -")),
            ("/api/v1/namespaces", Some("namespaces - - -")),
            ("/api/v1/namespaces/a", Some("namespaces - a -")),
            ("/api/v1/namespaces/a/", Some("namespaces - a -")),
            ("/api/v1/namespaces/a/status", Some("namespaces - a status")),
            ("/api/v1/namespaces/a/pods", Some("pods a - -")),
            ("/api/v1/namespaces/a/pods/b", Some("pods a b -")),
            ("/api/v1/namespaces/a/events/b%2Ec", Some("events a b.c -")),
            ("/api/v1/namespaces/a/pods/b/log", Some("pods a b log")),
            ("/api/v1/nodes/n/status", Some("nodes - n status")),
            ("/api/v1/pods/b", None),
            ("/api/v1/namespaces/a/nodes", None),
            ("/api/v1/namespaces/a/pods/b/c/d", None),
            ("/api/v1/namespaces/a/configmaps/b/status", None),
            ("/api/v1/namespaces/a/pods/b%zz", None),
            ("/api/v2/pods", None),
            ("/apis/apps/v1/pods", None),
            ("/api/v1", None),
            ("/", None),
        ];
        for (path, want) in table {
            assert_eq!(told(path).as_deref(), want, "{path}");
        }
    }
}
