//! The options of a request: its query, and for deletions its body.

use axum::extract::Query as Parameters;
use http::Uri;
use serde_json::Value;

use crate::body::{self, MAX_BODY};
use crate::failure::Failure;

/// The longest name of a field manager, in characters (upstream's limit).
const MANAGER_MAX: usize = 128;

/// The parameters of a query, in order; a name may stand more than once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Result<Self, Failure> {
        Parameters::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|Parameters(list)| Self(list))
            .map_err(|e| Failure::bad_request(format!("the query is malformed: {e}")))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A switch; as upstream, a bare name and anything but `0` and `false` mean yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "0" | "false" | "False" | "F" | "f"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Failure::bad_request(format!("{name}: {text:?} is not an integer")))
            }
        }
    }
}

/// What becomes of fields that the type does not have, or that stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

/// The options of create, update and patch.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// The field manager that was named.
    pub(crate) manager: Option<String>,
    /// The one that is taken when none was named: the client's name.
    pub(crate) client: String,
    /// Take over the fields of other managers (apply only).
    pub(crate) force: bool,
}

impl WriteOptions {
    pub(crate) fn parse(query: &Query, user_agent: &str) -> Result<Self, Failure> {
        let validation = match query.text("fieldValidation") {
            "Strict" => FieldValidation::Strict,
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            other => {
                return Err(Failure::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: \
                     supported values: \"Ignore\", \"Warn\", \"Strict\""
                )));
            }
        };
        let manager = query.get("fieldManager").filter(|m| !m.is_empty()).map(str::to_owned);
        if manager.as_ref().is_some_and(|m| m.len() > MANAGER_MAX) {
            return Err(Failure::bad_request(format!(
                "fieldManager: Too long: may not be more than {MANAGER_MAX} bytes"
            )));
        }
        let client = user_agent.split('/').next().unwrap_or_default();
        Ok(Self {
            dry_run: dry_run(query.all().filter(|(n, _)| *n == "dryRun").map(|(_, v)| v))?,
            validation,
            manager,
            client: client.chars().take(MANAGER_MAX).collect(),
            force: query.flag("force"),
        })
    }

    pub(crate) fn manager(&self) -> &str {
        self.manager.as_deref().unwrap_or(if self.client.is_empty() { "unknown" } else { &self.client })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, Failure> {
    let mut dry_run = false;
    for value in values {
        match value {
            "All" => dry_run = true,
            "" => {}
            other => {
                return Err(Failure::bad_request(format!(
                    "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                )));
            }
        }
    }
    Ok(dry_run)
}

/// The options of a deletion; the body's win over the query's.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    /// Seconds.
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    pub(crate) fn parse(query: &Query, media_type: &str, bytes: &[u8]) -> Result<Self, Failure> {
        debug_assert!(bytes.len() <= MAX_BODY);
        let value = if bytes.is_empty() { Value::Null } else { body::parse(media_type, bytes)?.value };
        if !value.is_null() && !value.is_object() {
            return Err(Failure::bad_request("the body is no DeleteOptions object"));
        }
        let in_body = value["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let in_query = query.all().filter(|(name, _)| *name == "dryRun").map(|(_, value)| value);
        let policy = value["propagationPolicy"].as_str().unwrap_or(query.text("propagationPolicy"));
        // Nothing here has dependents yet; a wrong policy is still an error.
        if !matches!(policy, "" | "Orphan" | "Background" | "Foreground") {
            return Err(Failure::bad_request(format!(
                "propagationPolicy: Unsupported value: {policy:?}: \
                 supported values: \"Foreground\", \"Background\", \"Orphan\""
            )));
        }
        let grace = match &value["gracePeriodSeconds"] {
            Value::Null => query.number("gracePeriodSeconds")?,
            number => Some(
                number
                    .as_i64()
                    .ok_or_else(|| Failure::bad_request(format!("gracePeriodSeconds: {number} is not an integer")))?,
            ),
        };
        let condition = |name: &str| value["preconditions"][name].as_str().map(str::to_owned);
        Ok(Self {
            dry_run: dry_run(in_body.chain(in_query))?,
            grace,
            uid: condition("uid"),
            resource_version: condition("resourceVersion"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn queries_are_decoded() {
        let query = query("labelSelector=a%3Db%2Cc&watch&limit=5&command=a&command=b+c");
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.all().filter(|(n, _)| *n == "command").count(), 2);
    }

    #[test]
    fn delete_options_come_from_body_and_query() {
        let body = br#"{"kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"u"}}"#;
        let options = DeleteOptions::parse(&query("gracePeriodSeconds=5&dryRun=All"), "", body).unwrap();
        let want = DeleteOptions { dry_run: true, grace: Some(0), uid: Some("u".into()), resource_version: None };
        assert_eq!(options, want);
        assert!(DeleteOptions::parse(&query("propagationPolicy=Maybe"), "", b"").is_err());
        assert!(DeleteOptions::parse(&query("dryRun=Some"), "", b"").is_err());
    }
}
