//! The names of images: `[registry[:port]/]repository[:tag][@digest]`, as docker and Kubernetes read them.
//!
//! The grammar is the one of the OCI distribution specification and of docker's references; what is left out is
//! completed (`docker.io`, `library/`, `latest`), so that one image has one name everywhere.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
/// The name of docker.io in old references.
const LEGACY_REGISTRY: &str = "index.docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The complete name of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(String),
    Digest(Digest),
}

/// Why a name is not one of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image name {name:?} is invalid: {reason}")]
pub struct ReferenceError {
    /// The name as it was given.
    pub name: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl Reference {
    /// Reads and completes a name. With both a tag and a digest the digest counts and the tag is dropped: only
    /// the digest says which image it is.
    pub fn parse(name: &str) -> Result<Reference, ReferenceError> {
        parse(name).map_err(|reason| ReferenceError { name: name.chars().take(MAX_NAME * 2).collect(), reason })
    }

    /// The host that the name gives (`docker.io`, `localhost:5000`), which a mirror does not change.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the name is not by digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, if the name is by digest.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// The same repository, by digest.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { version: Version::Digest(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(name)
    }
}

fn parse(name: &str) -> Result<Reference, String> {
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some(wrong) = name.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(format!("{wrong:?} cannot be part of it"));
    }
    if name.contains("://") {
        return Err("it starts with a scheme; leave it out".to_owned());
    }
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => {
            let digest = digest.parse().map_err(|reason| format!("digest {digest:?}: {reason}"))?;
            (name, Some(digest))
        }
        None => (name, None),
    };
    // A colon after the last slash starts a tag; one before it is a port.
    let slash = name.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match name[slash..].find(':') {
        Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
        None => (name, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(path)?;
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err(format!("registry and repository together exceed {MAX_NAME} characters"));
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(Reference { registry, repository, version })
}

/// The first component is a registry if it could not be a repository's: it has a dot, a port or an upper-case
/// letter, or is `localhost`.
fn split_registry(path: &str) -> Result<(String, String), String> {
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, path),
    };
    check_registry(registry)?;
    check_repository(repository)?;
    let registry = match registry {
        LEGACY_REGISTRY => DEFAULT_REGISTRY,
        other => other,
    };
    let repository = match repository.contains('/') {
        false if registry == DEFAULT_REGISTRY => format!("{DEFAULT_NAMESPACE}/{repository}"),
        _ => repository.to_owned(),
    };
    if registry == DEFAULT_REGISTRY && !path.contains('/') && is_hex_id(path) {
        return Err("64 hex digits name an image's id, not a repository".to_owned());
    }
    Ok((registry.to_owned(), repository))
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(|| format!("registry {registry:?} lacks its ]"))?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| format!("registry {registry:?} is not an IPv6 address"))?;
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => {
                    return Err(format!("registry {registry:?} has {after:?} after its address"));
                }
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(format!("port {port:?} of the registry is not a number from 1 to 65535"));
        }
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match host {
        Some(host) if !host.split('.').all(label) => Err(format!("registry {host:?} is not a host name")),
        _ => Ok(()),
    }
}

fn check_repository(repository: &str) -> Result<(), String> {
    if repository.is_empty() {
        return Err("it names no repository".to_owned());
    }
    for component in repository.split('/') {
        check_component(component).map_err(|reason| match component.is_empty() {
            true => "its repository has an empty component: check the slashes".to_owned(),
            false => format!("repository component {component:?} {reason}"),
        })?;
    }
    Ok(())
}

/// Lower-case letters and digits, in between `.`, `_`, `__` or any number of `-`.
fn check_component(component: &str) -> Result<(), &'static str> {
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("must be lower case");
    }
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !component.bytes().all(|b| word(b) || matches!(b, b'.' | b'_' | b'-')) {
        return Err("may have only lower-case letters, digits, '.', '_' and '-'");
    }
    let bytes = component.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) if word(first) && word(last) => {}
        _ => return Err("must start and end with a letter or digit"),
    }
    let separators = component.split(|c: char| word(c as u8));
    match separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-')) {
        true => Ok(()),
        false => Err("may separate its words only by '.', '_', '__' or dashes"),
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    match bytes {
        [] => Err("its tag is empty".to_owned()),
        _ if bytes.len() > MAX_TAG => Err(format!("its tag exceeds {MAX_TAG} characters")),
        [first, rest @ ..] if word(*first) && rest.iter().all(|&b| word(b) || matches!(b, b'.' | b'-')) => Ok(()),
        _ => Err(format!(
            "tag {tag:?} may have only letters, digits, '_', '.' and '-', and must start with one of the first three"
        )),
    }
}

#[cfg(test)]
mod tests;
