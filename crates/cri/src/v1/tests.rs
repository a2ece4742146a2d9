//! Nothing of the wire format moves: every call, field number, name and type against a table.

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::AuthConfig;

/// One line for each call, field and enum value, written down from the Kubernetes 1.36 sources.
const WIRE: &str = include_str!("wire.txt");

fn compiled() -> Vec<String> {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));
    let files = FileDescriptorSet::decode(bytes.as_slice()).expect("descriptor set");
    let file = files.file.iter().find(|file| file.package() == "runtime.v1").expect("package runtime.v1");
    let mut rows = Vec::new();
    for service in &file.service {
        for call in &service.method {
            rows.push(format!(
                "{} rpc {} {} -> {}{}",
                service.name(),
                call.name(),
                short(call.input_type()),
                if call.server_streaming() { "stream " } else { "" },
                short(call.output_type()),
            ));
            assert!(!call.client_streaming(), "{} streams from the client", call.name());
        }
    }
    for values in &file.enum_type {
        enum_rows(&mut rows, "", values);
    }
    for message in &file.message_type {
        message_rows(&mut rows, message);
    }
    rows
}

fn enum_rows(rows: &mut Vec<String>, within: &str, values: &EnumDescriptorProto) {
    for value in &values.value {
        let (name, number) = (value.name(), value.number());
        rows.push(format!("{within}{} enum {number} {name}", values.name()));
    }
}

fn message_rows(rows: &mut Vec<String>, message: &DescriptorProto) {
    if message.field.is_empty() {
        rows.push(format!("{} empty", message.name()));
    }
    for field in &message.field {
        let (number, name) = (field.number(), field.name());
        rows.push(format!("{} {number} {name} {}", message.name(), kind(message, field)));
    }
    for values in &message.enum_type {
        enum_rows(rows, &format!("{}.", message.name()), values);
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|o| o.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), nested.name()))
    });
    if let Some(entry) = entry {
        return format!("map<{},{}>", plain(&entry.field[0]), plain(&entry.field[1]));
    }
    match field.label() {
        Label::Repeated => format!("repeated {}", plain(field)),
        _ => plain(field),
    }
}

fn plain(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn short(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

#[test]
fn every_call_number_name_and_type_is_that_of_kubernetes_1_36() {
    let mut compiled = compiled();
    let mut written: Vec<String> = WIRE.lines().map(str::to_owned).collect();
    compiled.sort();
    written.sort();
    let missing: Vec<_> = written.iter().filter(|row| !compiled.contains(row)).collect();
    let extra: Vec<_> = compiled.iter().filter(|row| !written.contains(row)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}\nextra {extra:#?}");
}

#[test]
fn there_are_41_calls_35_on_containers_and_6_on_images() {
    let count = |service: &str| {
        let start = format!("{service} rpc ");
        compiled().iter().filter(|row| row.starts_with(&start)).count()
    };
    assert_eq!((count("RuntimeService"), count("ImageService")), (35, 6));
}

#[test]
fn credentials_are_never_printed() {
    let auth = AuthConfig {
        username: "ann".into(),
        password: "s3cret".into(),
        auth: "s3cret".into(),
        identity_token: "s3cret".into(),
        registry_token: "s3cret".into(),
        server_address: "registry".into(),
    };
    let request = super::PullImageRequest { auth: Some(auth), ..Default::default() };
    let printed = format!("{request:?}");
    assert!(printed.contains("ann") && !printed.contains("s3cret"), "{printed}");
}
