//! Credentials from a file in the form that docker (`~/.docker/config.json`) and podman (`auth.json`,
//! containers-auth.json(5)) write.
//!
//! The most specific entry counts: for `r.io/team/app` that is `r.io/team/app`, then `r.io/team`, then `r.io`. The file is
//! read anew for each pull, so that a login is seen at once. Programs that keep credentials (`credHelpers`, `credsStore`)
//! are not run: the service that pulls is not the user who logged in, and a kubelet has credential providers of its own.
//! A registry whose entry needs one is refused by the program's name instead of being asked without credentials.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

use crate::config::Credentials;
use crate::error::Error;

/// Bytes of the file.
const MAX_FILE: u64 = 1 << 20;
/// What docker.io is called in such files, and by the registry's own host.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Logins {
    auths: BTreeMap<String, Login>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials that `file` has for a repository at a host (`host[:port]`). No file, or nothing in it for that
/// repository, is nobody in particular.
pub(crate) fn from_file(file: &Path, host: &str, repository: &str) -> Result<Credentials, Error> {
    let refuse = |reason: String| Error::Logins { file: file.to_owned(), reason };
    let mut bytes = Vec::new();
    match File::open(file) {
        Ok(open) => open.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| refuse(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::Anonymous),
        Err(error) => return Err(refuse(error.to_string())),
    };
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse(format!("it is longer than {MAX_FILE} bytes")));
    }
    // The parser's own words may quote a secret.
    let logins: Logins = serde_json::from_slice(&bytes).map_err(|error| {
        refuse(format!("no docker configuration: line {}, column {}", error.line(), error.column()))
    })?;
    logins.find(host, repository).map_err(refuse)
}

impl Logins {
    fn find(&self, host: &str, repository: &str) -> Result<Credentials, String> {
        for key in keys(host, repository) {
            if let Some((name, program)) = self.cred_helpers.iter().find(|(name, _)| normal(name) == key) {
                return Err(helper(name, program));
            }
            let Some((name, login)) = self.auths.iter().find(|(name, _)| normal(name) == key) else { continue };
            return match login.credentials() {
                // Docker leaves an empty entry for what its store keeps.
                Some(Credentials::Anonymous) if !self.creds_store.is_empty() => Err(helper(name, &self.creds_store)),
                Some(credentials) => Ok(credentials),
                None => Err(format!("auth of {name:?} is not base64 of user:password")),
            };
        }
        Ok(Credentials::Anonymous)
    }
}

impl Login {
    /// `None` if what should be base64 is not.
    fn credentials(&self) -> Option<Credentials> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        if let Some(token) = text(&self.registrytoken) {
            return Some(Credentials::Bearer(token));
        }
        if let Some(token) = text(&self.identitytoken) {
            return Some(Credentials::Identity(token));
        }
        if let Some(username) = text(&self.username) {
            return Some(Credentials::Basic { username, password: self.password.clone() });
        }
        match self.auth.as_str() {
            "" => Some(Credentials::Anonymous),
            auth => Credentials::from_auth(auth),
        }
    }
}

fn helper(registry: &str, program: &str) -> String {
    format!(
        "{registry:?} wants the program docker-credential-{program}, which is not run; write its login into the file"
    )
}

/// What an entry for the repository can be called, the most specific first.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let host = hub(host);
    let components: Vec<&str> = repository.split('/').collect();
    let paths = (0..=components.len()).rev().map(|count| [&[host], &components[..count]].concat().join("/"));
    paths.collect()
}

/// An entry's name without what tools have put around it: `https://index.docker.io/v1/` is `docker.io`.
fn normal(name: &str) -> String {
    let name = name.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    match path {
        "" | "v1" | "v2" => hub(host).to_owned(),
        path => format!("{}/{path}", hub(host)),
    }
}

/// Whether a server's address, as docker and the kubelet give it (`https://index.docker.io/v1/`), is that of a registry
/// ([`crate::Reference::registry`]).
pub fn same_registry(address: &str, registry: &str) -> bool {
    normal(address).split('/').next() == Some(hub(registry))
}

/// All names of docker.io are one.
fn hub(host: &str) -> &str {
    if DOCKER_HUB.contains(&host) { DOCKER_HUB[0] } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, host: &str, repository: &str) -> Result<Credentials, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), json).expect("write");
        from_file(file.path(), host, repository).map_err(|error| error.to_string())
    }

    fn user(name: &str) -> Credentials {
        Credentials::Basic { username: name.to_owned(), password: "p".to_owned() }
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let json = r#"{"auths": {
            "r.io": {"username": "host", "password": "p"},
            "r.io/team": {"username": "team", "password": "p"},
            "https://r.io/team/app/": {"username": "app", "password": "p"},
            "https://index.docker.io/v1/": {"auth": "aHViOnA="},
            "other.io:5000/v2/": {"identitytoken": "t"},
            "token.io": {"registrytoken": "t", "username": "unused"},
            "empty.io": {}
        }}"#;
        for (host, repository, expected) in [
            ("r.io", "team/app", user("app")),
            ("r.io", "team/app/deeper", user("app")),
            ("r.io", "team/application", user("team")),
            ("r.io", "teams", user("host")),
            ("registry-1.docker.io", "library/nginx", user("hub")),
            ("other.io:5000", "x", Credentials::Identity("t".to_owned())),
            ("other.io", "x", Credentials::Anonymous),
            ("token.io", "x", Credentials::Bearer("t".to_owned())),
            ("empty.io", "x", Credentials::Anonymous),
            ("io", "x", Credentials::Anonymous),
        ] {
            assert_eq!(find(json, host, repository).expect(host), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn a_program_that_keeps_credentials_is_refused_by_name() {
        let json = r#"{"credHelpers": {"gcr.io": "gcr"}, "credsStore": "pass", "auths": {"r.io": {}, "plain.io": {"auth": "aHViOnA="}}}"#;
        for (host, program) in [("gcr.io", "docker-credential-gcr"), ("r.io", "docker-credential-pass")] {
            let error = find(json, host, "x").expect_err(host);
            assert!(error.contains(program) && error.contains(host), "{error}");
        }
        assert_eq!(find(json, "plain.io", "x"), Ok(user("hub")));
        assert_eq!(find(json, "unknown.io", "x"), Ok(Credentials::Anonymous));
    }

    #[test]
    fn a_bad_file_is_refused_without_its_secrets_and_no_file_is_nobody() {
        let huge = " ".repeat(MAX_FILE as usize + 1);
        for bad in
            [r#"{"auths": {"r.io": "hunter2"}}"#, "hunter2", r#"{"auths": {"r.io": {"auth": "hunter2"}}}"#, &huge]
        {
            let error = find(bad, "r.io", "x").expect_err("a bad file");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(from_file(Path::new("/nowhere"), "r.io", "x").expect("no file"), Credentials::Anonymous);
    }
}
