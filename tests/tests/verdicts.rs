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

/// `docs/pod-api.md` is the table; `PODD_UPDATE=1 cargo test -p podd-tests --test verdicts` writes it.
#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pod-api.md");
    let page = page();
    if std::env::var_os("PODD_UPDATE").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/pod-api.md is not the table; PODD_UPDATE=1 cargo test -p podd-tests --test verdicts writes it"
    );
}

/// The page: one section for each part of a Pod, a row for each row of the table.
fn page() -> String {
    let count = |wanted: fn(&Verdict) -> bool| verdict::fields().filter(|field| wanted(&field.verdict)).count();
    let (honoured, no_effect, refused) = (
        count(|verdict| matches!(verdict, Verdict::Honoured(_))),
        count(|verdict| matches!(verdict, Verdict::NoEffect(_))),
        count(|verdict| matches!(verdict, Verdict::Refused(_))),
    );
    let mut text = format!(
        "# The Pod API, field by field\n\n\
         Made from the table in `crates/core/src/verdict/table.rs`; a test holds both together. Of the {} fields of a Pod of\n\
         Kubernetes 1.36, {honoured} are honoured, {no_effect} have no effect on one node and are reported so, {refused} are refused by name. `podd\n\
         explain FIELD` says the same of one field, `podd apply --dry-run` of a manifest. A field that is null, empty or at its\n\
         default is never refused. Init and ephemeral containers follow the rows of containers where they have none of their\n\
         own; `.*` means the field with all that is below it. What is honoured names the black-box test that proves it, in\n\
         `tests/tests`; how podd behaves stands in [pods.md](pods.md).\n",
        verdict::fields().count(),
    );
    let mut rows: Vec<(&str, Verdict)> = verdict::rows().collect();
    rows.sort_by_key(|(field, _)| (part_of(field), *field));
    for part in PARTS {
        let of_part: Vec<&(&str, Verdict)> = rows.iter().filter(|(field, _)| part_of(field) == part.0).collect();
        if of_part.is_empty() {
            continue;
        }
        text.push_str(&format!("\n## {}\n\n| field | verdict | proof, or why |\n|---|---|---|\n", part.1));
        for (field, verdict) in of_part {
            let (word, why) = match verdict {
                Verdict::Honoured(test) => ("honoured", format!("`{test}`")),
                Verdict::NoEffect(why) => ("no effect", (*why).to_owned()),
                Verdict::Refused(why) => ("refused", (*why).to_owned()),
            };
            text.push_str(&format!("| `{field}` | {word} | {} |\n", why.replace('|', "\\|")));
        }
    }
    text
}

/// The beginning of the fields of each part, and its title. The longest beginning counts.
const PARTS: &[(&str, &str)] = &[
    ("", "The object"),
    ("spec", "The pod"),
    ("spec.securityContext", "Security of the pod"),
    ("spec.containers[]", "Containers"),
    ("spec.initContainers[]", "Init containers"),
    ("spec.ephemeralContainers[]", "Ephemeral containers"),
    ("spec.volumes[]", "Volumes"),
];

fn part_of(field: &str) -> &'static str {
    let parts = PARTS.iter().map(|(part, _)| *part).filter(|part| field.starts_with(part));
    parts.max_by_key(|part| part.len()).unwrap_or_default()
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
