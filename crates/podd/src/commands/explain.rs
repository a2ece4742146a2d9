//! `podd explain`: what a field is, and what podd does with it. The texts are podd's own; what Kubernetes says of a field
//! is in its reference.

use std::fmt::Write as _;

use anyhow::bail;
use podd_core::verdict::{self, Field, Verdict};

use crate::cli::Explain;
use crate::kinds::Kind;
use crate::print;

pub(crate) fn run(args: &Explain) -> anyhow::Result<()> {
    let (resource, path) = args.field.split_once('.').unwrap_or((&args.field, ""));
    let kind = Kind::by_name(resource)?;
    if kind.kind != "Pod" {
        bail!("fields of a {} are not explained; only those of a Pod: podd explain pod.spec", kind.kind);
    }
    print::text(&explain(path.trim_end_matches('.'), args.recursive)?);
    Ok(())
}

fn explain(path: &str, recursive: bool) -> anyhow::Result<String> {
    let mut out = "KIND:    Pod\nVERSION: v1\n".to_owned();
    let found = match path {
        "" => None,
        path => Some(verdict::field(path).ok_or_else(|| unknown(path))?),
    };
    if let Some(field) = found {
        let _ = write!(out, "\nFIELD:   {} <{}>\nVERDICT: {}\n", field.path, field.kind, verdict_text(field.verdict));
    }
    let inside = found.map_or("", |field| field.path);
    let mut listing = String::new();
    list(inside, recursive, 1, &mut listing);
    if !listing.is_empty() {
        let _ = write!(out, "\nFIELDS:\n{listing}");
    }
    Ok(out)
}

/// The fields in a field, a line each; what is not honoured says so.
fn list(path: &str, recursive: bool, depth: usize, out: &mut String) {
    for field in verdict::fields().filter(|field| field.is_in(path)) {
        let name = format!("{:indent$}{}", "", field.name(), indent = depth * 2);
        let _ = writeln!(out, "{name:<34} {:<32} {}", format!("<{}>", field.kind), word(field.verdict));
        if recursive {
            list(field.path, recursive, depth + 1, out);
        }
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Honoured(_) => "honoured",
        Verdict::NoEffect(_) => "no effect",
        Verdict::Refused(_) => "refused",
    }
}

fn verdict_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Honoured(test) => {
            let (file, function) = test.split_once("::").unwrap_or((test, ""));
            format!("honoured; proved by {function} in tests/tests/{file}.rs")
        }
        Verdict::NoEffect(why) => format!("accepted without effect: {why}"),
        Verdict::Refused(why) => format!("refused: {why}"),
    }
}

/// Names the nearest field that there is, and what it has.
fn unknown(path: &str) -> anyhow::Error {
    let mut known = path;
    let above = loop {
        match known.rsplit_once('.') {
            None => break None,
            Some((parent, _)) => match verdict::field(parent) {
                Some(field) => break Some(field),
                None => known = parent,
            },
        }
    };
    let inside = above.as_ref().map_or("", |field: &Field| field.path);
    let names: Vec<&str> = verdict::fields().filter(|f| f.is_in(inside)).map(|f| f.name()).collect();
    let place = if inside.is_empty() { "a Pod" } else { inside };
    anyhow::anyhow!("a Pod has no field {path:?}; {place} has: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_told_with_its_verdict_and_what_is_in_it() {
        let text = explain("spec.containers.volumeMounts", false).expect("a field");
        assert!(text.contains("FIELD:   spec.containers[].volumeMounts <[]VolumeMount>\nVERDICT: honoured"), "{text}");
        assert!(text.contains("\n  mountPath "), "{text}");
        let nfs = explain("spec.volumes[].nfs", false).expect("a field");
        assert!(nfs.contains("VERDICT: refused: podd mounts no network storage"), "{nfs}");
        let all = explain("spec", true).expect("a field");
        assert!(all.lines().any(|line| line.starts_with("      mountPath ")), "{all}");
    }

    #[test]
    fn an_unknown_field_is_refused_with_those_that_there_are() {
        let error = explain("spec.containers.imagee", false).expect_err("unknown").to_string();
        assert!(
            error.starts_with("a Pod has no field \"spec.containers.imagee\"; spec.containers has: args, "),
            "{error}"
        );
        let error = explain("specc", false).expect_err("unknown").to_string();
        assert!(error.ends_with("a Pod has: apiVersion, kind, metadata, spec, status"), "{error}");
    }
}
