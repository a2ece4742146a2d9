//! Everything about the store that can be set: limits, mirrors, credentials. Nothing here is looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;

/// How a store pulls and what it accepts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Registries (`host` or `host:port`) that are spoken to over plain HTTP. Loopback always is.
    pub insecure_registries: BTreeSet<String>,
    /// Per registry, where to ask before asking it itself, in order. Images keep their original name.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Names of images that are never to be collected ([`crate::Image::pinned`]).
    pub pinned: BTreeSet<String>,
    /// The file of trusted certificates for HTTPS (PEM).
    pub ca_file: PathBuf,
    /// Per registry or mirror (`host` or `host:port`), how HTTPS differs there. Loopback is spoken to over HTTPS if it
    /// stands here.
    pub tls: BTreeMap<String, Tls>,
    /// A file of credentials as docker and podman write it, for pulls that bring none and for mirrors.
    pub auth_file: Option<PathBuf>,
    /// How many layers of one image are fetched and unpacked at once.
    pub parallel_layers: usize,
    /// How often a request is tried in all before its last error counts. Progress starts the count again.
    pub attempts: u32,
    /// The pause before the second try; it doubles each time, up to [`Config::backoff_max`].
    pub backoff: Duration,
    /// The longest pause between two tries, also for a registry that asks for a longer one.
    pub backoff_max: Duration,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
    /// How long a registry may stay silent within an answer.
    pub stall_timeout: Duration,
    /// What is too much.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            insecure_registries: BTreeSet::new(),
            mirrors: BTreeMap::new(),
            pinned: BTreeSet::new(),
            ca_file: PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
            tls: BTreeMap::new(),
            auth_file: None,
            parallel_layers: 3,
            attempts: 4,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            limits: Limits::default(),
        }
    }
}

/// Another registry that has a registry's images under the same repository names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `host` or `host:port`.
    pub host: String,
    /// Put before each repository's name, for registries that serve others under a prefix; may be empty.
    pub prefix: String,
}

/// How HTTPS to one registry differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates (PEM) that are trusted there beside those of [`Config::ca_file`].
    pub ca_file: Option<PathBuf>,
    /// The registry is believed whatever its certificate says. Where it redirects to is not.
    pub insecure_skip_verify: bool,
}

/// Named upper bounds for what a registry, an archive or a layer can make the store do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a manifest, an index or a token.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration.
    pub config_bytes: u64,
    /// Layers of one image; overlay stacks no more than 500.
    pub layers: u64,
    /// Compressed bytes of one layer.
    pub blob_bytes: u64,
    /// Uncompressed bytes of one layer, holes of sparse files included.
    pub layer_bytes: u64,
    /// Files, directories, links and whiteouts of one layer.
    pub layer_entries: u64,
    /// Bytes of one entry's headers: long names and extended attributes.
    pub entry_header_bytes: u64,
    /// How deep directories may nest in a layer, so that they can also be removed.
    pub depth: u64,
    /// Bytes of one archive and of what it unpacks to, for [`crate::Store::load`].
    pub archive_bytes: u64,
    /// Members of one archive.
    pub archive_members: u64,
    /// Reconnections within one blob, however much progress each makes.
    pub resumes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Limits {
            manifest_bytes: 4 * MIB,
            config_bytes: 8 * MIB,
            layers: 500,
            blob_bytes: 64 * GIB,
            layer_bytes: 64 * GIB,
            layer_entries: 4_000_000,
            entry_header_bytes: MIB,
            depth: 200,
            archive_bytes: 128 * GIB,
            archive_members: 100_000,
            resumes: 100,
        }
    }
}

/// Who asks a registry. Shown without its secrets.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A user and a password, used for basic authentication or to get a token.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth 2 refresh token (docker's "identity token"), used to get a token.
    Identity(String),
    /// A bearer token that goes to the registry as it is.
    Bearer(String),
}

impl Credentials {
    /// Reads docker's `auth` field: base64 of `user:password`. `None` if it is not that.
    pub fn from_auth(auth: &str) -> Option<Credentials> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Credentials::Basic {
            username: username.to_owned(),
            // docker pads the password with NULs when it stores it.
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Basic { .. } => "Basic(…)",
            Credentials::Identity(_) => "Identity(…)",
            Credentials::Bearer(_) => "Bearer(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_auth_field_is_user_and_password() {
        assert_eq!(
            Credentials::from_auth("dXNlcjpwYTpzcw=="),
            Some(Credentials::Basic { username: "user".into(), password: "pa:ss".into() })
        );
        assert_eq!(Credentials::from_auth("%%%"), None);
        assert_eq!(Credentials::from_auth("dXNlcg=="), None);
    }

    #[test]
    fn credentials_do_not_show_their_secrets() {
        let shown = format!("{:?}", Credentials::Bearer("hunter2".into()));
        assert!(!shown.contains("hunter2"));
    }
}
