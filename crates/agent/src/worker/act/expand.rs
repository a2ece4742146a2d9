//! `$(VAR)` in commands, arguments and environment values, as Kubernetes expands it: `$$` is a dollar sign, a reference
//! to nothing known stays as it is, and so does anything that is no reference.

use std::collections::BTreeMap;

/// Expands the references of one text.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    expand_with(text, |name| known.get(name).cloned().unwrap_or_else(|| format!("$({name})")))
}

/// The same where a reference to nothing known is an error: the name of the first one.
pub(super) fn expand_known(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut unknown = None;
    let expanded = expand_with(text, |name| {
        let value = known.get(name).cloned();
        if value.is_none() {
            unknown.get_or_insert_with(|| name.to_owned());
        }
        value.unwrap_or_default()
    });
    unknown.map_or(Ok(expanded), Err)
}

fn expand_with(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            expanded.push_str(&value(name));
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_kubernetes_does() {
        let known = [("A", "1"), ("B", "$(A)"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let table = [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(EMPTY)", ""),
            ("$(B)", "$(A)"),
            ("$(NOPE)", "$(NOPE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
        ];
        for (text, want) in table {
            assert_eq!(expand(text, &known), want, "{text}");
        }
    }
}
