//! Answers to `401 Unauthorized`: basic authentication, and bearer tokens from wherever the challenge points
//! (the distribution project's "token authentication" and its OAuth 2 form).

use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, Url};

use super::{Failure, Session, check, read};
use crate::config::Credentials;
use crate::error::ErrorKind;

const CLIENT_ID: &str = "podd";

/// The header that requests of a session carry.
pub(super) struct Authorization {
    header: Option<HeaderValue>,
    /// Counts the answers, so that of several refused requests only the first gets a new token.
    generation: u64,
}

impl Authorization {
    pub(super) fn initial(credentials: &Credentials) -> Authorization {
        let header = match credentials {
            Credentials::Bearer(token) => secret("Bearer", token),
            _ => None,
        };
        Authorization { header, generation: 0 }
    }

    pub(super) fn current(&self) -> (Option<HeaderValue>, u64) {
        (self.header.clone(), self.generation)
    }
}

fn secret(scheme: &str, value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("{scheme} {value}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let pair = format!("{username}:{password}");
    secret("Basic", &base64::engine::general_purpose::STANDARD.encode(pair))
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge that we can answer best, from all `WWW-Authenticate` headers.
fn challenge(headers: impl Iterator<Item = String>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for challenge in http_auth::parse_challenges(&header).unwrap_or_default() {
            let parameter = |name: &str| {
                let mut parameters = challenge.params.iter();
                let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer { realm, service: parameter("service"), scope: parameter("scope") });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

impl Session {
    /// Gets what a refused request needs. `generation` is that of the header which it carried.
    pub(super) async fn answer(&self, refused: Response, generation: u64) -> Result<(), Failure> {
        let headers = refused.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = challenge(headers.filter_map(|value| Some(value.to_str().ok()?.to_owned())));
        let mut authorization = self.authorization.lock().await;
        if authorization.generation != generation {
            return Ok(());
        }
        let header = match (challenge, &self.credentials) {
            (Some(Challenge::Basic), Credentials::Basic { username, password }) => basic(username, password),
            (Some(Challenge::Bearer { realm, service, scope }), credentials)
                if !matches!(credentials, Credentials::Bearer(_)) =>
            {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let token = self.token(&realm, service.as_deref(), &scope).await?;
                secret("Bearer", &token)
            }
            // The refusal itself says the rest.
            _ => return check(refused).await.map(drop),
        };
        authorization.header = header;
        authorization.generation += 1;
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, Failure> {
        let refuse = |reason: String| Failure::lasting(ErrorKind::Unauthorized, reason);
        let mut url: Url = realm.parse().map_err(|_| refuse(format!("its token realm {realm:?} is no URL")))?;
        let plain = url.scheme() == "http";
        if !matches!(url.scheme(), "http" | "https") || (plain && !self.endpoint.plain_http) {
            return Err(refuse(format!("its token realm {realm:?} is not https")));
        }
        let mut host = url.host_str().unwrap_or_default().to_owned();
        if let Some(port) = url.port() {
            host += &format!(":{port}");
        }
        let client = self.clients.get(&host, plain).map_err(|error| refuse(error.to_string()))?;
        let service = service.map(|service| ("service", service));
        let request = if let Credentials::Identity(refresh) = &self.credentials {
            let fields = [
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("scope", scope),
                ("refresh_token", refresh),
            ];
            let form = form(fields.into_iter().chain(service));
            let request = client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            request.body(form)
        } else {
            let fields = service.into_iter().chain([("scope", scope), ("client_id", CLIENT_ID)]);
            url.query_pairs_mut().extend_pairs(fields);
            let request = client.get(url);
            match &self.credentials {
                Credentials::Basic { username, password } => match basic(username, password) {
                    Some(header) => request.header(AUTHORIZATION, header),
                    None => request,
                },
                _ => request,
            }
        };
        let response = request.send().await.map_err(|error| Failure::transport(&error))?;
        let response = check(response)
            .await
            .map_err(|failure| Failure { reason: format!("no token from {host}: {}", failure.reason), ..failure })?;
        let body = read(response, self.config.limits.manifest_bytes).await?;
        token_of(&body).ok_or_else(|| refuse(format!("the answer of {host} has no token")))
    }
}

fn form<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // The URL type has the only encoder at hand that knows the form's rules.
    let mut url = Url::parse("http://form/").expect("a constant URL parses");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

fn token_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        token: Option<String>,
        access_token: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    body.token.or(body.access_token).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[&str]) -> Option<Challenge> {
        challenge(headers.iter().map(|header| (*header).to_owned()))
    }

    #[test]
    fn a_bearer_challenge_is_preferred_and_its_commas_survive() {
        let bearer = r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:x:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://a.io/token".into(),
            service: Some("r.io".into()),
            scope: Some("repository:x:pull,push".into()),
        };
        assert_eq!(of(&[r#"Basic realm="r""#, bearer]), Some(expected));
        assert_eq!(of(&[r#"basic realm="r""#]), Some(Challenge::Basic));
        assert_eq!(of(&["Negotiate", "%%%"]), None);
    }

    #[test]
    fn a_token_comes_under_either_name() {
        for (body, token) in [
            (r#"{"token":"a"}"#, Some("a")),
            (r#"{"access_token":"b"}"#, Some("b")),
            (r#"{"token":""}"#, None),
            ("no", None),
        ] {
            assert_eq!(token_of(body.as_bytes()).as_deref(), token, "{body}");
        }
    }

    #[test]
    fn form_fields_are_encoded() {
        assert_eq!(form([("scope", "a:b c&d")].into_iter()), "scope=a%3Ab+c%26d");
    }
}
