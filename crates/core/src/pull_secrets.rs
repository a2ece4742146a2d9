//! The credentials that a pod brings for its images: what its `imagePullSecrets` hold, and which of it is for an image.
//!
//! The rules follow the kubelet (Kubernetes, `pkg/credentialprovider/keyring.go`; of patterns only `*`). An entry is called by a
//! host, with a port and a path if need be; parts of the host may be patterns (`*.r.io`), and a path counts for all that
//! begins with it. All entries that fit are tried, those that sort last first, so that the longer of two paths is before the
//! shorter.

use std::{collections::BTreeMap, fmt};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde::Deserialize;

const CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
const CONFIG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");
/// What an entry for Docker Hub is called by docker; it counts for images whose name has no registry.
const DOCKER_HUB: &str = "index.docker.io";

/// A user of a registry. Cannot be printed with the password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// Why a Secret gives no credentials. Tells nothing of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Of no type that holds credentials, or without their key.
    #[error(
        "it holds no registry credentials: wanted is the type kubernetes.io/dockerconfigjson with the key .dockerconfigjson"
    )]
    Other,
    /// Not what its type promises.
    #[error("{key} is no docker configuration: line {line}, column {column}")]
    Syntax {
        /// The key in the Secret.
        key: &'static str,
        /// Where reading stopped.
        line: usize,
        /// Where in the line.
        column: usize,
    },
}

/// Credentials by the places that they are for.
#[derive(Default)]
pub struct Keyring {
    logins: BTreeMap<String, Vec<Login>>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Entry {
    username: String,
    password: String,
    auth: Auth,
}

/// base64 of `user:password`, which wins over the two written out.
#[derive(Default)]
struct Auth(Option<Login>);

impl<'de> Deserialize<'de> for Auth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Auth, D::Error> {
        const FORGIVING: GeneralPurposeConfig =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Auth(None));
        }
        let decoded = GeneralPurpose::new(&alphabet::STANDARD, FORGIVING).decode(text.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let login = decoded.as_ref().and_then(|text| text.split_once(':'));
        // The text itself is a secret.
        let (username, password) = login.ok_or_else(|| serde::de::Error::custom("no base64 of user:password"))?;
        Ok(Auth(Some(Login { username: username.to_owned(), password: password.to_owned() })))
    }
}

impl Keyring {
    /// Takes what a Secret holds; entries of Secrets that came earlier are tried earlier.
    ///
    /// # Errors
    /// The Secret holds no credentials, and nothing was taken.
    pub fn add(&mut self, secret: &Secret) -> Result<(), Unusable> {
        let kind = secret.type_.as_deref().unwrap_or_default();
        let of = |(wanted, key): (&str, &'static str)| {
            let held = secret.data.as_ref().filter(|_| kind == wanted)?.get(key)?;
            Some((key, held))
        };
        let entries = match (of(CONFIG_JSON), of(CONFIG)) {
            (Some((key, held)), _) => read::<File>(key, held)?.auths,
            (None, Some((key, held))) => read(key, held)?,
            (None, None) => return Err(Unusable::Other),
        };
        for (name, entry) in entries {
            let login = entry.auth.0.unwrap_or(Login { username: entry.username, password: entry.password });
            let logins = self.logins.entry(normal(&name)).or_default();
            if !logins.contains(&login) {
                logins.push(login);
            }
        }
        Ok(())
    }

    /// The credentials for an image, in the order in which they are to be tried.
    #[must_use]
    pub fn of_image(&self, image: &str) -> Vec<Login> {
        let repository = repository(image);
        let (host, path) = repository.split_once('/').unwrap_or((&repository, ""));
        let fits = self.logins.iter().rev().filter(|(name, _)| {
            let (pattern, below) = name.split_once('/').unwrap_or((name, ""));
            path.starts_with(below) && same_host(pattern, host)
        });
        let mut found: Vec<Login> = Vec::new();
        for login in fits.flat_map(|(_, logins)| logins) {
            if !found.contains(login) {
                found.push(login.clone());
            }
        }
        if found.is_empty() && host == "docker.io" {
            found.extend(self.logins.get(DOCKER_HUB).into_iter().flatten().cloned());
        }
        found
    }
}

fn read<'a, T: Deserialize<'a>>(key: &'static str, held: &'a ByteString) -> Result<T, Unusable> {
    // The parser's own words may quote a secret.
    let syntax = |error: serde_json::Error| Unusable::Syntax { key, line: error.line(), column: error.column() };
    serde_json::from_slice(&held.0).map_err(syntax)
}

/// An entry's name without what tools put around it: `https://index.docker.io/v1/` is `index.docker.io`.
fn normal(name: &str) -> String {
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// An image's name in full, without tag and digest: `nginx:1` is `docker.io/library/nginx`.
fn repository(image: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some((DOCKER_HUB, path)) => format!("docker.io/{path}"),
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Whether a host is what a pattern means: part by part between the dots, and with the same port.
fn same_host(pattern: &str, host: &str) -> bool {
    fn split(text: &str) -> (&str, &str) {
        text.rsplit_once(':').unwrap_or((text, ""))
    }
    let ((pattern, wanted), (host, port)) = (split(pattern), split(host));
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    wanted == port
        && patterns.len() == parts.len()
        && patterns.iter().zip(parts).all(|(pattern, part)| fits(pattern.as_bytes(), part.as_bytes()))
}

/// `*` is any number of characters. Goes back to the last star only, so that no pattern takes long.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at + 1, seen));
                at += 1;
            }
            (Some(byte), _) if *byte == text[seen] => (at, seen) = (at + 1, seen + 1),
            (_, Some((after, from))) => {
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(kind: &str, key: &str, content: &str) -> Secret {
        Secret {
            type_: Some(kind.to_owned()),
            data: Some([(key.to_owned(), ByteString(content.as_bytes().to_vec()))].into()),
            ..Default::default()
        }
    }

    fn keyring(auths: &Value) -> Keyring {
        let mut keyring = Keyring::default();
        let content = json!({ "auths": auths }).to_string();
        keyring.add(&secret(CONFIG_JSON.0, CONFIG_JSON.1, &content)).expect("credentials");
        keyring
    }

    fn users(keyring: &Keyring, image: &str) -> String {
        keyring.of_image(image).into_iter().map(|login| login.username).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_fit_by_host_port_path_and_pattern_the_longest_first() {
        let names = [
            "r.io",
            "r.io/team",
            "https://r.io/v2/team/app",
            "r.io:5000",
            "*.pattern.io",
            "a*z.two.io:*",
            "https://index.docker.io/v1/",
        ];
        let auths: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"username": *name, "password": "p"}))).collect();
        let keyring = keyring(&Value::Object(auths));
        for (image, expected) in [
            ("r.io/team/app:1", "https://r.io/v2/team/app r.io/team r.io"),
            ("r.io/team/other", "r.io/team r.io"),
            ("r.io/x@sha256:00", "r.io"),
            ("r.io:5000/team/app", "r.io:5000"),
            ("r.io:5001/team/app", ""),
            ("a.pattern.io/x", "*.pattern.io"),
            ("a.b.pattern.io/x", ""),
            ("pattern.io/x", ""),
            ("abz.two.io/x", ""),
            ("nginx", "https://index.docker.io/v1/"),
            ("docker.io/library/nginx:1", "https://index.docker.io/v1/"),
            ("team/app", "https://index.docker.io/v1/"),
            ("localhost/x", ""),
        ] {
            assert_eq!(users(&keyring, image), expected, "{image}");
        }
    }

    #[test]
    fn a_star_is_any_number_of_characters() {
        for (pattern, text, fit) in [
            ("*", "", true),
            ("a*", "a", true),
            ("*b*d", "abcd", true),
            ("*b*d", "abc", false),
            ("a", "ab", false),
            ("a*b", "axbxb", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), fit, "{pattern} {text}");
        }
    }

    #[test]
    fn both_types_are_read_and_auth_wins_over_what_is_written_out() {
        let mut both = keyring(&json!({"r.io": {"auth": "aHViOnA6cQ", "username": "other", "password": "x"}}));
        both.add(&secret(CONFIG.0, CONFIG.1, r#"{"r.io": {"username": "old", "password": "p"}}"#))
            .expect("credentials");
        assert_eq!(users(&both, "r.io/x"), "hub old");
        assert_eq!(both.of_image("r.io/x")[0].password, "p:q");
    }

    #[test]
    fn what_cannot_be_read_is_told_without_what_is_in_it() {
        let mut keyring = Keyring::default();
        assert_eq!(keyring.add(&secret("Opaque", CONFIG_JSON.1, "{}")), Err(Unusable::Other));
        assert_eq!(keyring.add(&secret(CONFIG_JSON.0, "other", "{}")), Err(Unusable::Other));
        for bad in ["hunter2", r#"{"auths": {"r.io": "hunter2"}}"#, r#"{"auths": {"r.io": {"auth": "hunter2"}}}"#] {
            let error = keyring.add(&secret(CONFIG_JSON.0, CONFIG_JSON.1, bad)).expect_err(bad).to_string();
            assert!(error.contains(".dockerconfigjson") && !error.contains("hunter2"), "{error}");
        }
        assert!(keyring.of_image("r.io/x").is_empty());
        assert!(!format!("{:?}", Login { username: "u".into(), password: "hunter2".into() }).contains("hunter2"));
    }
}
