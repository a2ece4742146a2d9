//! The table of verdicts on the fields of a Pod keeps its word: what it says is honoured has the black-box test that the row
//! names.

use std::{collections::BTreeSet, fs, path::Path};

use podd_core::verdict::{self, Verdict};

#[test]
fn every_honoured_field_names_a_test_that_there_is() {
    let tests = tests();
    let wrong: Vec<String> = verdict::rows()
        .filter_map(|(field, verdict)| match verdict {
            Verdict::Honoured(test) if !tests.contains(test) => Some(format!("{field}: {test}")),
            _ => None,
        })
        .collect();
    assert!(wrong.is_empty(), "no such tests:\n{}", wrong.join("\n"));
}

#[test]
fn every_verdict_says_more_than_a_word() {
    for (field, verdict) in verdict::rows() {
        let (Verdict::Honoured(text) | Verdict::NoEffect(text) | Verdict::Refused(text)) = verdict;
        assert!(text.len() > 10, "{field}: {text:?}");
    }
}

/// The names of all black-box tests, `FILE::FUNCTION`.
fn tests() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&directory).expect("the tests can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a test can be read");
        let mut is_test = false;
        for line in text.lines() {
            let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "));
            if let Some((name, _)) = name.filter(|_| is_test).and_then(|rest| rest.split_once('(')) {
                found.insert(format!("{file}::{name}"));
            }
            is_test =
                line.starts_with("#[test]") || line.starts_with("#[tokio::test") || (is_test && line.starts_with("#["));
        }
    }
    assert!(found.len() > 100, "only {} tests found", found.len());
    found
}
