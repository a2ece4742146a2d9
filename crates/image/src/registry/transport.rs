//! HTTP connections: which hosts get plain HTTP, whom TLS trusts, where redirects may lead.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reqwest::redirect::{Attempt, Policy};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::trust::{Believing, provider};
use crate::config::{Config, Tls};
use crate::error::Error;

const MAX_REDIRECTS: usize = 10;

/// The connection pools of a store, made when they are first needed.
#[derive(Clone)]
pub(crate) struct Clients(Arc<Inner>);

struct Inner {
    config: Config,
    /// For loopback: no proxy, no TLS trust.
    loopback: OnceLock<Result<reqwest::Client, Error>>,
    /// For configured insecure registries; what they redirect to may well be HTTPS.
    plain: OnceLock<Result<reqwest::Client, Error>>,
    secure: OnceLock<Result<reqwest::Client, Error>>,
    /// For registries with a [`Tls`] of their own.
    special: Mutex<HashMap<String, Result<reqwest::Client, Error>>>,
}

impl Clients {
    pub(crate) fn new(config: &Config) -> Clients {
        Clients(Arc::new(Inner {
            config: config.clone(),
            loopback: OnceLock::new(),
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            special: Mutex::default(),
        }))
    }

    /// The client for a `host[:port]`.
    pub(crate) fn get(&self, host: &str, plain_http: bool) -> Result<reqwest::Client, Error> {
        let Inner { config, loopback, plain, secure, special } = &*self.0;
        if let Some(tls) = config.tls.get(host) {
            let mut special = special.lock().unwrap_or_else(PoisonError::into_inner);
            return special.entry(host.to_owned()).or_insert_with(|| build_special(config, host, tls)).clone();
        }
        let client = if is_loopback(host) {
            loopback.get_or_init(|| build(config, RootCertStore::empty(), false))
        } else if plain_http {
            let roots = || roots(&config.ca_file).unwrap_or_else(|_| RootCertStore::empty());
            plain.get_or_init(|| build(config, roots(), true))
        } else {
            secure.get_or_init(|| build(config, roots(&config.ca_file)?, true))
        };
        client.clone()
    }
}

/// The client for a registry that has a [`Tls`] of its own.
fn build_special(config: &Config, host: &str, tls: &Tls) -> Result<reqwest::Client, Error> {
    let mut trusted = match roots(&config.ca_file) {
        Ok(trusted) => trusted,
        // Its own certificates, or none at all, will do without those of the system.
        Err(_) if tls.ca_file.is_some() || tls.insecure_skip_verify => RootCertStore::empty(),
        Err(error) => return Err(error),
    };
    if let Some(file) = &tls.ca_file {
        trusted.roots.extend(roots(file)?.roots);
    }
    let mut client = client_config(trusted.clone())?;
    if tls.insecure_skip_verify {
        client.dangerous().set_certificate_verifier(Arc::new(Believing::new(name_of(host), trusted)));
    }
    build_with(config, client, !is_loopback(host))
}

fn build(config: &Config, roots: RootCertStore, proxy: bool) -> Result<reqwest::Client, Error> {
    build_with(config, client_config(roots)?, proxy)
}

fn client_config(roots: RootCertStore) -> Result<rustls::ClientConfig, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Certificates { reason: error.to_string() })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn build_with(config: &Config, tls: rustls::ClientConfig, proxy: bool) -> Result<reqwest::Client, Error> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("podd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.stall_timeout)
        .redirect(Policy::custom(redirect));
    let builder = if proxy { builder } else { builder.no_proxy() };
    builder.build().map_err(|error| Error::Certificates { reason: explain(&error) })
}

/// Registries redirect to object stores. Never from HTTPS to HTTP, which would take the promise back.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let downgrade = attempt.url().scheme() != "https" && attempt.previous().iter().any(|url| url.scheme() == "https");
    if downgrade {
        attempt.error("it redirects from https to http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("it redirects too often")
    } else {
        attempt.follow()
    }
}

fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let broken = |reason: String| Error::Certificates { reason: format!("{}: {reason}", file.display()) };
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| broken(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    match added {
        0 => Err(broken("it has no certificates; install ca-certificates".to_owned())),
        _ => Ok(roots),
    }
}

/// A `host[:port]` without port and brackets.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether a `host[:port]` is this machine by its very name.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = name_of(host);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error with all that is behind it, without the URL (which may carry a signature).
pub(super) fn explain(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_connect() => "cannot connect".to_owned(),
        () if error.is_timeout() => "the registry is silent for too long".to_owned(),
        () if error.is_redirect() => "a redirect was refused".to_owned(),
        () => "the connection broke".to_owned(),
    };
    let mut source = std::error::Error::source(error);
    let mut last = None;
    while let Some(inner) = source {
        last = Some(inner);
        source = inner.source();
    }
    if let Some(last) = last {
        text += &format!(": {last}");
        let os = last.downcast_ref::<std::io::Error>();
        if os.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            text += "; is it running?";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com:80", false),
            ("10.0.0.1", false),
            ("[2001:db8::1]:443", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
