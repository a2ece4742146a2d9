//! The rules that names, labels and annotations follow, with Kubernetes' messages.
//!
//! Each function returns what is wrong with the text, or nothing. Source:
//! `apimachinery/pkg/util/validation`.

/// The longest DNS label, in bytes.
pub const LABEL_MAX: usize = 63;
/// The longest DNS subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;
/// The most that all annotations of an object may hold, in bytes.
pub const ANNOTATIONS_MAX: usize = 256 << 10;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// A DNS label: container names, namespaces, volume names, host names.
#[must_use]
pub fn dns_label(text: &str) -> Option<String> {
    too_long(text, LABEL_MAX).or_else(|| (!is_dns_label(text)).then(|| LABEL_RULE.into()))
}

/// A DNS subdomain: names of most objects.
#[must_use]
pub fn dns_subdomain(text: &str) -> Option<String> {
    too_long(text, SUBDOMAIN_MAX).or_else(|| {
        let fits = !text.is_empty() && text.split('.').all(is_dns_label);
        (!fits).then(|| SUBDOMAIN_RULE.into())
    })
}

/// A qualified name: the keys of labels and annotations (`example.com/name`).
#[must_use]
pub fn qualified(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((_, name)) if name.contains('/') => {
            return Some(format!("a qualified name {}", QUALIFIED_RULE.trim_start_matches("name part ")));
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".into());
        }
        if let Some(wrong) = dns_subdomain(prefix) {
            return Some(format!("prefix part {wrong}"));
        }
    }
    if name.is_empty() {
        return Some("name part must be non-empty".into());
    }
    too_long(name, LABEL_MAX)
        .map(|wrong| format!("name part {wrong}"))
        .or_else(|| (!is_qualified_part(name)).then(|| QUALIFIED_RULE.into()))
}

/// The value of a label.
#[must_use]
pub fn label_value(text: &str) -> Option<String> {
    too_long(text, LABEL_MAX)
        .or_else(|| (!text.is_empty() && !is_qualified_part(text)).then(|| LABEL_VALUE_RULE.into()))
}

/// The name of a port: at most 15 characters, at least one letter.
#[must_use]
pub fn port_name(text: &str) -> Option<String> {
    let wrong = if text.len() > 15 {
        "must be no more than 15 characters"
    } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if text.contains("--") {
        "must not contain consecutive hyphens"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return None;
    };
    Some(wrong.into())
}

/// The name of an environment variable: printable ASCII without `=` (the relaxed rule, on since
/// Kubernetes 1.34).
#[must_use]
pub fn env_var(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    (!fits).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='".into()
    })
}

/// A key of a config map or secret.
#[must_use]
pub fn config_key(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let wrong = if text.len() > SUBDOMAIN_MAX {
        "must be no more than 253 characters"
    } else if text.is_empty() || !text.chars().all(fits) {
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
         or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
    } else if text == "." || text.starts_with("..") {
        "must not be '.' or '..' nor start with '..'"
    } else {
        return None;
    };
    Some(wrong.into())
}

fn too_long(text: &str, limit: usize) -> Option<String> {
    (text.len() > limit).then(|| format!("must be no more than {limit} bytes"))
}

fn is_dns_label(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge) && bytes.iter().all(|b| edge(b) || *b == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Option<String>;

    #[test]
    fn names_fit_or_are_told_why_not() {
        let long = "a".repeat(64);
        let longer = "a".repeat(254);
        let table: &[(Rule, &[&str], &[&str])] = &[
            (dns_label, &["a", "a-b", "0", "123-abc"], &["", "A", "-a", "a-", "a.b", "a_b", &long]),
            (dns_subdomain, &["a", "a.b-c.d"], &["", "a..b", ".a", "a.", "A", &longer]),
            (qualified, &["a", "A_b.c", "x.y/z"], &["", "/a", "x/", "a/b/c", "X/y", "-a", &long]),
            (label_value, &["", "a", "A.b_c"], &["-a", "a-", "a b", &long]),
            (port_name, &["http", "a1", "p-8080"], &["", "8080", "a--b", "-a", "Http", "a234567890123456"]),
            (config_key, &["a", "A_b.c-d", ".x"], &["", ".", "..", "..a", "a b", "a/b", &longer]),
            (env_var, &["A", "a.b", "with space", "1"], &["", "a=b", "ü", "\n"]),
        ];
        for (rule, good, bad) in table {
            for text in *good {
                assert_eq!(rule(text), None, "{text}");
            }
            for text in *bad {
                assert!(rule(text).is_some(), "{text}");
            }
        }
    }
}
