//! Objections to a field, in the words and shapes of Kubernetes' API (`field.Error`).

use std::fmt;

use serde_json::Value;

/// Why a field is objected to. The names of the causes in a `Status` follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The field is missing or empty.
    Required,
    /// The value breaks a rule.
    Invalid,
    /// The value stands here a second time.
    Duplicate,
    /// The value is not one of a closed set.
    NotSupported,
    /// The field may not be set (here, or by podd at all).
    Forbidden,
    /// The value has too many bytes.
    TooLong,
    /// The value names something that is not there.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
}

impl Reason {
    /// The `reason` of a cause in `Status.details.causes`.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::Required => "Required value",
            Reason::Invalid | Reason::TypeInvalid => "Invalid value",
            Reason::Duplicate => "Duplicate value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::TooLong => "Too long",
            Reason::NotFound => "Not found",
        }
    }
}

/// One objection.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// The field path, `spec.containers[0].image`.
    pub path: String,
    /// The kind of objection.
    pub reason: Reason,
    /// The value objected to, for the kinds that show it.
    pub value: Option<Value>,
    /// What is wrong and what would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A field that is missing.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, Reason::Required, None, detail)
    }
    /// A value that breaks a rule.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, Reason::Invalid, Some(value.into()), detail)
    }
    /// A value that stands here a second time.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, Reason::Duplicate, Some(value.into()), "")
    }
    /// A value outside a closed set.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        Self::new(path, Reason::NotSupported, Some(value.into()), format!("supported values: {}", list.join(", ")))
    }
    /// A field that may not be set.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, Reason::Forbidden, None, detail)
    }
    /// A value of more than `limit` bytes.
    pub fn too_long(path: impl Into<String>, limit: usize) -> Self {
        Self::new(path, Reason::TooLong, None, format!("may not be more than {limit} bytes"))
    }
    /// A value that names something that is not there.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, Reason::NotFound, Some(value.into()), "")
    }

    fn new(path: impl Into<String>, reason: Reason, value: Option<Value>, detail: impl Into<String>) -> Self {
        FieldError { path: path.into(), reason, value, detail: detail.into() }
    }

    /// The objection without its path, as it stands in a cause's `message`.
    #[must_use]
    pub fn message(&self) -> String {
        let mut text = String::from(self.reason.words());
        if let Some(value) = &self.value {
            text.push_str(&format!(": {value}"));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objections_read_as_kubernetes_writes_them() {
        let table = [
            (FieldError::required("spec.containers", ""), "spec.containers: Required value"),
            (FieldError::invalid("a", "x", "must be y"), "a: Invalid value: \"x\": must be y"),
            (FieldError::invalid("a", -1, "must be positive"), "a: Invalid value: -1: must be positive"),
            (FieldError::duplicate("a", "x"), "a: Duplicate value: \"x\""),
            (
                FieldError::not_supported("a", "x", &["b", "c"]),
                "a: Unsupported value: \"x\": supported values: \"b\", \"c\"",
            ),
            (FieldError::forbidden("a", "no"), "a: Forbidden: no"),
            (FieldError::too_long("a", 63), "a: Too long: may not be more than 63 bytes"),
            (FieldError::not_found("a", "v"), "a: Not found: \"v\""),
        ];
        for (error, want) in table {
            assert_eq!(error.to_string(), want);
        }
    }
}
