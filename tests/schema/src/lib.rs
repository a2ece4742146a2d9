//! Walks the Pod schema of Kubernetes as `k8s-openapi` has it, and holds what `podd_core::verdict` says of its fields
//! against it: the list of fields is complete and true, and each field has a verdict.

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Map, Value};

    /// The kept list: one field a line, `PATH TYPE`. `podd explain` reads it.
    const FIELDS: &str = "../../crates/core/src/verdict/fields.txt";

    /// The types that are one value in JSON, whatever their schema says.
    const PLAIN: &[&str] = &["Quantity", "Time", "MicroTime", "IntOrString", "FieldsV1"];

    struct Schema {
        definitions: Map<String, Value>,
    }

    impl Schema {
        fn of_pod() -> (Schema, Value) {
            let mut root = schemars::SchemaGenerator::default().into_root_schema_for::<Pod>().to_value();
            let definitions = root.get_mut("$defs").and_then(Value::as_object_mut).map(std::mem::take);
            (Schema { definitions: definitions.expect("the schema names its types") }, root)
        }

        /// The name of a referenced type, and its schema.
        fn referenced<'a>(&'a self, schema: &'a Value) -> Option<(&'a str, &'a Value)> {
            let reference = schema.get("$ref").or_else(|| schema["allOf"].get(0)?.get("$ref"))?.as_str()?;
            let name = reference.strip_prefix("#/$defs/")?;
            Some((name.rsplit('.').next()?, &self.definitions[name]))
        }

        /// The fields below a schema, with the path to each and its type.
        fn walk(&self, schema: &Value, path: &str, fields: &mut Vec<(String, String)>) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields.push((path.clone(), self.kind(field)));
                self.inside(field, path, fields);
            }
        }

        fn inside(&self, field: &Value, path: String, fields: &mut Vec<(String, String)>) {
            if let Some((name, schema)) = self.referenced(field) {
                if !PLAIN.contains(&name) {
                    self.walk(schema, &path, fields);
                }
            } else if field["type"] == "array" {
                self.inside(&field["items"], format!("{path}[]"), fields);
            }
        }

        fn kind(&self, field: &Value) -> String {
            if let Some((name, _)) = self.referenced(field) {
                return name.to_owned();
            }
            match field["type"].as_str() {
                Some("array") => format!("[]{}", self.kind(&field["items"])),
                Some("object") if field.get("additionalProperties").is_some() => {
                    format!("map[string]{}", self.kind(&field["additionalProperties"]))
                }
                Some(plain) => plain.to_owned(),
                None => "value".to_owned(),
            }
        }
    }

    fn fields() -> Vec<(String, String)> {
        let (schema, root) = Schema::of_pod();
        let mut fields = Vec::new();
        schema.walk(&root, "", &mut fields);
        fields.sort();
        fields
    }

    #[test]
    fn the_list_of_fields_is_the_schema_of_kubernetes() {
        let found = fields().into_iter().fold(String::new(), |mut text, (path, kind)| {
            writeln!(text, "{path} {kind}").expect("a string takes it");
            text
        });
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FIELDS);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &found).expect("write the list");
        }
        let kept = std::fs::read_to_string(&file).expect("read the list");
        assert!(found == kept, "{} is stale; run this test with UPDATE=1", file.display());
    }

    #[test]
    fn every_field_has_a_verdict() {
        let without: Vec<String> =
            fields().into_iter().map(|(path, _)| path).filter(|path| podd_core::verdict::of(path).is_none()).collect();
        assert!(without.is_empty(), "no verdict on:\n{}", without.join("\n"));
    }
}
