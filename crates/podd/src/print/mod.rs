//! How objects look on the terminal: tables, YAML, JSON, descriptions. Values in, text out.

mod describe;
mod environment;
pub(crate) mod jsonpath;
mod pod;
mod probes;
mod storage;
mod table;
pub(crate) mod why;

use std::io::Write as _;

use serde_json::Value;

use crate::cli::Output;
use crate::kinds::Kind;
use crate::yaml;

pub(crate) use describe::describe;
pub(crate) use table::{Columns, aligned, plain, rows, table};

/// `println!` for what a command answers; see [`text`].
macro_rules! say {
    ($($part:tt)*) => { $crate::print::text(&format!("{}\n", format_args!($($part)*))) };
}
pub(crate) use say;

/// The exit code of a program that SIGPIPE has ended.
const BROKEN_PIPE: i32 = 141;

/// Writes to standard output. A reader that has seen enough (`podd get pods | head -1`) ends the program without a word,
/// as SIGPIPE does with others.
pub(crate) fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("error: write to standard output: {error}");
        }
        std::process::exit(BROKEN_PIPE);
    }
}

/// The time by which ages are told.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// What is said where objects were asked for and none is there.
pub(crate) fn nothing_found(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".into(),
    }
}

/// Prints a value as JSON or YAML.
pub(crate) fn value(value: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(value)?);
    } else {
        text(&yaml::to_string(value)?);
    }
    Ok(())
}

/// Prints one object of several in a format other than a table; YAML documents are set apart.
pub(crate) fn object(object: &Value, kind: &Kind, output: Output, first: bool) -> anyhow::Result<()> {
    match output {
        Output::Name | Output::Wide => {
            say!("{}/{}", kind.singular(), object["metadata"]["name"].as_str().unwrap_or(""));
            Ok(())
        }
        Output::Json => value(object, true),
        Output::Yaml => {
            if !first {
                say!("---");
            }
            value(object, false)
        }
    }
}
