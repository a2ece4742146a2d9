//! How objects look on the terminal: tables, YAML, JSON, descriptions. Values in, text out.

mod describe;
pub(crate) mod jsonpath;
mod pod;
mod table;

use serde_json::Value;

use crate::cli::Output;
use crate::kinds::Kind;
use crate::yaml;

pub(crate) use describe::describe;
pub(crate) use table::{Columns, plain, table};

/// The time by which ages are told.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Prints a value as JSON or YAML.
pub(crate) fn value(value: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{}", yaml::to_string(value)?);
    }
    Ok(())
}

/// Prints one object in a format other than a table; YAML documents are set apart.
pub(crate) fn object(object: &Value, kind: &Kind, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Name | Output::Wide => {
            println!("{}/{}", kind.singular(), object["metadata"]["name"].as_str().unwrap_or(""));
            Ok(())
        }
        Output::Json => value(object, true),
        Output::Yaml => {
            println!("---");
            value(object, false)
        }
    }
}
