//! YAML as podd prints it: what [`podd_manifest`] (and kubectl) reads back as the same value.
//!
//! serde-saphyr quotes what YAML 1.1 would take for something else (`yes`, `0440`, `1_000`);
//! serde_yaml and its continuation do not.

use serde_json::Value;

/// The YAML of a value, ending in a newline.
pub(crate) fn to_string(value: &Value) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! { compact_list_indent: true };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    proptest! {
        #[test]
        fn any_text_survives(text in "\\PC{0,12}|[-yYnN0-9xob_.:eE~ #'\"]{0,8}", key in "[a-z0-9yn_.-]{1,6}") {
            let value = json!({ &key: {"list": [&text, {"b": &text}]} });
            let yaml = super::to_string(&value).unwrap();
            let read = podd_manifest::parse(yaml.as_bytes()).map(|d| d[0].value.clone());
            prop_assert_eq!(read.unwrap_or(Value::Null), value, "{}", yaml);
        }
    }

    #[test]
    fn printed_yaml_is_read_back_as_the_same_value() {
        let tricky = [
            "yes",
            "no",
            "on",
            "off",
            "y",
            "n",
            "Y",
            "true",
            "null",
            "~",
            "",
            " ",
            "0440",
            "0o17",
            "0x1f",
            "1_000",
            "1e3",
            "1.5",
            ".5",
            "5.",
            "-1",
            "+1",
            "1:2",
            "12:30:45",
            "2026-11-22",
            "a: b",
            "- a",
            "# c",
            "a #b",
            "@x",
            "`x",
            "%x",
            "&a",
            "*a",
            "!t",
            "|",
            ">",
            "{",
            "[",
            "?",
            "? a",
            "line\nbreak",
            "trail\n",
            "tab\t",
            "\u{7f}",
            "ü",
            "'",
            "\"",
            "a'b\"c",
            "<<",
            "=",
            ".inf",
            ".NaN",
            "0b11",
            "---",
            "...",
            "NULL",
            "ON",
            "No",
            "\r\n",
            "nbsp\u{a0}",
            "\u{feff}x",
        ];
        for text in tricky {
            let value = json!({"a": text, "l": [text], (format!("k{text}")): 1});
            let yaml = super::to_string(&value).unwrap();
            let read = podd_manifest::parse(yaml.as_bytes()).unwrap_or_else(|p| panic!("{text:?}: {p}\n{yaml}"));
            assert_eq!(read[0].value, value, "{text:?}\n{yaml}");
        }
    }
}
