//! `Warning` headers, as many as a client can be expected to take.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, header};

/// Characters of all warnings of a response (upstream's limit) …
const MAX_TOTAL: usize = 4 << 10;
/// … and of each of them when that is exceeded (upstream's limit).
const MAX_TRUNCATED: usize = 256;
/// Headers for warnings. Upstream has no such limit; HTTP clients have (hyper: 100 headers), and one that cannot read
/// the answer does not know that its object was written.
const MAX_HEADERS: usize = 50;

/// Adds one header for each warning, as RFC 7234 has them; what is left out is counted in a last one.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut seen = BTreeSet::new();
    let texts: Vec<String> = warnings.iter().map(|text| printable(text)).filter(|t| seen.insert(t.clone())).collect();
    let truncating = texts.iter().map(String::len).sum::<usize>() > MAX_TOTAL;
    let most = if texts.len() > MAX_HEADERS { MAX_HEADERS - 1 } else { MAX_HEADERS };
    let mut total = 0;
    let mut told = 0;
    for text in texts.iter().take(most) {
        if truncating && total >= MAX_TOTAL {
            break;
        }
        let text = if truncating { &text[..text.len().min(MAX_TRUNCATED)] } else { text };
        total += text.len();
        told += 1;
        add(headers, text);
    }
    if told < texts.len() {
        add(headers, &format!("{} more warnings", texts.len() - told));
    }
}

/// What a header may hold of a text: one byte for each character.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect()
}

fn add(headers: &mut HeaderMap, text: &str) {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        headers.append(header::WARNING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(warnings: &[String]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        warn(&mut headers, warnings);
        headers.get_all(header::WARNING).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn each_warning_is_told_once_and_quoted() {
        let warnings = ["unknown field \"a\\b\"\n", "x", "x"].map(str::to_owned);
        assert_eq!(told(&warnings), [r#"299 - "unknown field \"a\\b\"""#, "299 - \"x\""]);
    }

    #[test]
    fn a_long_warning_stands_whole_while_all_of_them_fit() {
        let long = "a".repeat(4000);
        assert_eq!(told(std::slice::from_ref(&long)), [format!("299 - \"{long}\"")]);
        let both = [long, "b".repeat(300)];
        assert_eq!(told(&both), ["a", "b"].map(|c| format!("299 - \"{}\"", c.repeat(256))));
    }

    #[test]
    fn warnings_end_at_their_total_and_at_a_number_that_clients_take() {
        let long: Vec<String> = (0..1000).map(|n| format!("{n:04}{}", "a".repeat(1000))).collect();
        let headers = told(&long);
        assert_eq!(headers.len(), 17);
        assert_eq!(headers[16], "299 - \"984 more warnings\"");
        let short: Vec<String> = (0..51).map(|n| n.to_string()).collect();
        assert_eq!(told(&short[..50]).len(), 50);
        let headers = told(&short);
        assert_eq!((headers.len(), headers[49].as_str()), (50, "299 - \"2 more warnings\""));
    }
}
