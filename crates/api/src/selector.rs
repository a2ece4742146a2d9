//! Label and field selectors.

use podd_core::names;
use serde_json::Value;

use crate::failure::Failure;
use crate::kinds::Kind;
use crate::store::Object;

/// What a list or watch asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// Field, value, and whether they must be equal.
    fields: Vec<(String, String, bool)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector` for a kind; empty texts select everything.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.labels.iter().all(|r| r.matches(object.label(&r.key)))
            && self.fields.iter().all(|(field, value, equal)| (object.field(field) == Some(value)) == *equal)
    }
}

/// Whether a label selector selects an object: what `labelSelector` does in a list, for objects that are in no store.
///
/// # Errors
/// What is wrong with the selector.
pub fn selects(selector: &str, object: &Value) -> Result<bool, String> {
    let requirements = parse_labels(selector)
        .map_err(|failure| failure.status()["message"].as_str().unwrap_or_default().to_owned())?;
    let labels = &object["metadata"]["labels"];
    Ok(requirements.iter().all(|requirement| requirement.matches(labels[&requirement.key].as_str())))
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(set) => value.is_some_and(|v| set.iter().any(|s| s == v)),
            Test::NotIn(set) => value.is_none_or(|v| set.iter().all(|s| s != v)),
            Test::Above(limit) => number().is_some_and(|n| n > *limit),
            Test::Below(limit) => number().is_some_and(|n| n < *limit),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
}

/// Two-character signs come first.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<"];

fn tokens(mut text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return tokens;
        }
        if let Some(sign) = SIGNS.iter().find(|sign| text.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            text = &text[sign.len()..];
            continue;
        }
        let ends = |c: char| c.is_whitespace() || "=!,()><".contains(c);
        let end = text.find(ends).unwrap_or(text.len());
        tokens.push(Token::Word(&text[..end]));
        text = &text[end..];
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, Failure> {
    let mut parser = Parser { text, tokens: tokens(text).into_iter().peekable() };
    let mut requirements = Vec::new();
    if parser.tokens.peek().is_none() {
        return Ok(requirements);
    }
    loop {
        requirements.push(parser.requirement()?);
        match parser.tokens.next() {
            None => return Ok(requirements),
            Some(Token::Sign(",")) => {}
            Some(token) => return Err(parser.unexpected(Some(token), "',' or the end")),
        }
    }
}

impl<'a> Parser<'a> {
    fn unexpected(&self, token: Option<Token<'_>>, expected: &str) -> Failure {
        let found = match token {
            Some(Token::Word(text) | Token::Sign(text)) => format!("found '{text}'"),
            None => "it ends early".into(),
        };
        Failure::bad_request(format!(
            "unable to parse requirement: {found}, expected: {expected} (in the selector {:?})",
            self.text
        ))
    }

    fn requirement(&mut self) -> Result<Requirement, Failure> {
        let absent = self.tokens.next_if_eq(&Token::Sign("!")).is_some();
        let key = match self.tokens.next() {
            Some(Token::Word(key)) => key,
            token => return Err(self.unexpected(token, "a label's key")),
        };
        if let Some(wrong) = names::qualified(key) {
            return Err(Failure::bad_request(format!(
                "unable to parse requirement: key: Invalid value: {key:?}: {wrong}"
            )));
        }
        let test = if absent { Test::Absent } else { self.test()? };
        Ok(Requirement { key: key.to_owned(), test })
    }

    fn test(&mut self) -> Result<Test, Failure> {
        let operator = match self.tokens.peek() {
            None | Some(Token::Sign(",")) => return Ok(Test::Exists),
            Some(token) => *token,
        };
        self.tokens.next();
        match operator {
            Token::Sign("=" | "==") => Ok(Test::In(vec![self.value()?])),
            Token::Sign("!=") => Ok(Test::NotIn(vec![self.value()?])),
            Token::Word("in") => Ok(Test::In(self.set()?)),
            Token::Word("notin") => Ok(Test::NotIn(self.set()?)),
            Token::Sign(">") => Ok(Test::Above(self.number()?)),
            Token::Sign("<") => Ok(Test::Below(self.number()?)),
            token => Err(self.unexpected(Some(token), "in, notin, =, ==, !=, > or <")),
        }
    }

    /// A value may be empty: `a=` asks for the empty label.
    fn value(&mut self) -> Result<String, Failure> {
        let value = match self.tokens.peek().copied() {
            Some(Token::Word(value)) => value,
            None | Some(Token::Sign("," | ")")) => return Ok(String::new()),
            token => return Err(self.unexpected(token, "a value")),
        };
        self.tokens.next();
        match names::label_value(value) {
            None => Ok(value.to_owned()),
            Some(wrong) => Err(Failure::bad_request(format!(
                "unable to parse requirement: values: Invalid value: {value:?}: {wrong}"
            ))),
        }
    }

    fn number(&mut self) -> Result<i64, Failure> {
        match self.tokens.next() {
            Some(Token::Word(word)) if word.parse::<i64>().is_ok() => Ok(word.parse().unwrap_or_default()),
            token => Err(self.unexpected(token, "an integer")),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, Failure> {
        match self.tokens.next() {
            Some(Token::Sign("(")) => {}
            token => return Err(self.unexpected(token, "'('")),
        }
        let mut set = Vec::new();
        loop {
            set.push(self.value()?);
            match self.tokens.next() {
                Some(Token::Sign(",")) => {}
                Some(Token::Sign(")")) => return Ok(set),
                token => return Err(self.unexpected(token, "',' or ')'")),
            }
        }
    }
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<(String, String, bool)>, Failure> {
    text.split(',').map(str::trim).filter(|term| !term.is_empty()).map(|t| field(kind, t)).collect()
}

fn field(kind: &Kind, term: &str) -> Result<(String, String, bool), Failure> {
    let split = [("!=", false), ("==", true), ("=", true)]
        .into_iter()
        .find_map(|(sign, equal)| Some((term.split_once(sign)?, equal)));
    let Some(((field, value), equal)) = split else {
        return Err(Failure::bad_request(format!("invalid selector: {term:?}; can't understand {term:?}")));
    };
    let known = field == "metadata.name"
        || (field == "metadata.namespace" && kind.namespaced)
        || kind.fields.iter().any(|(known, _)| *known == field);
    if !known {
        return Err(Failure::bad_request(format!(
            "Unable to find {:?} that match label selector \"\", field selector {term:?}: \
             field label not supported: {field}",
            kind.resource()
        )));
    }
    Ok((field.to_owned(), value.to_owned(), equal))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kinds::POD;
    use crate::store::Key;

    fn pod(labels: serde_json::Value) -> Object {
        let value = json!({
            "metadata": {"name": "p", "namespace": "n", "labels": labels},
            "spec": {"nodeName": "here", "hostNetwork": true},
        });
        Object::new(POD, Key::new("n", "p"), 1, &value)
    }

    fn selects(labels: &str, fields: &str) -> bool {
        let object = pod(json!({"app": "web", "tier": "", "example.com/n": "5"}));
        Selector::parse(POD, labels, fields).unwrap().matches(&object)
    }

    #[test]
    fn label_selectors_select_as_upstream() {
        let table = [
            ("", true),
            ("app", true),
            ("!app", false),
            ("gone", false),
            ("!gone", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier =", true),
            ("app!=web", false),
            ("gone!=web", true),
            ("app in (api, web)", true),
            ("app in (api)", false),
            ("app notin (api)", true),
            ("gone notin (api)", true),
            ("gone in (api)", false),
            ("tier=", true),
            ("tier in (,x)", true),
            ("example.com/n>4", true),
            ("example.com/n > 5", false),
            ("example.com/n<6", true),
            ("app>1", false),
            ("app=web,gone", false),
            ("in=x", false),
        ];
        for (selector, want) in table {
            assert_eq!(selects(selector, ""), want, "{selector}");
        }
    }

    #[test]
    fn field_selectors_select_as_upstream() {
        let table = [
            ("metadata.name=p", true),
            ("metadata.name!=p", false),
            ("metadata.namespace==n,spec.nodeName=here", true),
            ("status.phase=", true),
            ("spec.hostNetwork=true", true),
        ];
        for (selector, want) in table {
            assert_eq!(selects("", selector), want, "{selector}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        let labels = ["=", "a=b,", ",", "a b", "a in b", "a in (b", "a in", "a=b=c", "a>x", "!a=b", "-a", "a=-b", "("];
        for selector in labels {
            let refused = Selector::parse(POD, selector, "").map_err(|f| f.code());
            assert_eq!(refused.unwrap_err(), 400, "{selector}");
        }
        for selector in ["x", "spec.unknown=1"] {
            assert!(Selector::parse(POD, "", selector).is_err(), "{selector}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z=!,()<> in.-]{0,24}") {
            let _ = Selector::parse(POD, &text, &text);
        }

        #[test]
        fn in_and_notin_are_opposites(value in "[a-c]", set in proptest::collection::vec("[a-c]", 1..4)) {
            let object = pod(json!({"app": value}));
            let set = set.join(",");
            let selects = |s: String| Selector::parse(POD, &s, "").unwrap().matches(&object);
            prop_assert_ne!(selects(format!("app in ({set})")), selects(format!("app notin ({set})")));
        }
    }
}
