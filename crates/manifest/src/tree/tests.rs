//! YAML as kubectl reads it.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Document {
    let mut documents = parse(text.as_bytes()).unwrap_or_else(|p| panic!("{p}\n{text}"));
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn refusal(text: &str) -> Problem {
    match parse(text.as_bytes()) {
        Ok(documents) => panic!("accepted: {documents:?}"),
        Err(problem) => problem,
    }
}

#[test]
fn a_manifest_becomes_json_with_positions() {
    let doc = one(
        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    image: nginx\n    ports:\n    - containerPort: 80\n",
    );
    assert_eq!(
        doc.value,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}]}]}})
    );
    let at = |path: &str| doc.positions.find(path).0.to_string();
    assert_eq!(at("spec.containers[0].image"), "6:12");
    assert_eq!(at("spec.containers[0].ports[0].containerPort"), "8:22");
    assert_eq!(doc.positions.find_key("spec.containers[0].image").0.to_string(), "6:5");
    // A field that isn't there is shown at its nearest parent.
    assert_eq!(doc.positions.find("spec.containers[0].ports[0].hostPort"), (Position { line: 8, column: 7 }, false));
}

#[test]
fn many_documents_are_read_and_empty_ones_skipped() {
    let docs = parse(b"---\n---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
    assert_eq!(docs.iter().map(|d| d.value.clone()).collect::<Vec<_>>(), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(parse(b"").unwrap(), []);
}

#[test]
fn json_is_read_too() {
    assert_eq!(one("{\"a\": [1, \"0440\", true, null]}").value, json!({"a": [1, "0440", true, null]}));
}

#[test]
fn aliases_and_merge_keys_unfold() {
    let doc = one("base: &b {x: 1, z: 2}\na:\n  <<: *b\n  z: 3\nlist: [*b]\n");
    assert_eq!(doc.value["a"], json!({"x": 1, "z": 3}));
    assert_eq!(doc.value["list"], json!([{"x": 1, "z": 2}]));
}

#[test]
fn bad_text_is_refused_with_line_path_and_reason() {
    let table = [
        ("a: 1\na: 2\n", "2:1", "a", "second time"),
        ("s:\n  x: 1\n  z: 2\n  x: 3\n", "4:3", "s.x", "second time"),
        ("s:\n- x: {b: 1, b: 2}\n", "2:13", "s[0].x.b", "second time"),
        ("a: [1, 2\n", "1:4", "", "malformed"),
        ("a: b: c\n", "1:5", "", "malformed"),
        ("a:\n\tb: 1\n", "2:", "", "malformed"),
        ("a: *nope\n", "1:4", "", "malformed"),
        ("a: !ruby/object x\n", "1:", "a", "tag"),
        ("a: .inf\n", "1:4", "a", "JSON"),
        ("? [x]\n: 1\n", "1:3", "", "key"),
        ("a: &x [*x]\n", "1:8", "a[0]", "alias"),
    ];
    for (text, at, path, word) in table {
        let problem = refusal(text);
        assert!(problem.at.to_string().starts_with(at), "{text:?}: {problem}");
        assert_eq!(problem.path, path, "{text:?}: {problem}");
        assert!(problem.message.contains(word), "{text:?}: {problem}");
    }
}

#[test]
fn hostile_texts_cost_an_error_and_no_stack() {
    assert!(refusal(&"[".repeat(60_000)).message.len() < 200);
    let block: String = (0..60_000).map(|n| format!("{}a:\n", " ".repeat(n % 7000))).collect();
    assert!(parse(block.as_bytes()).is_err());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        let alias = format!("*a{},", n - 1).repeat(9);
        bomb.push_str(&format!("a{n}: &a{n} [{alias}]\n"));
    }
    assert!(refusal(&bomb).message.contains("aliases"));
    let large = vec![b'#'; 40 << 20];
    assert!(parse(&large).unwrap_err().message.contains("16 MiB"));
    let problem = parse(b"a: 1\nb: \xff\n").unwrap_err();
    assert_eq!((problem.at.line, problem.at.column), (2, 4));
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z~.]{1,6}", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_text_is_read_as_itself(value in prop::collection::btree_map("[a-z]{1,6}", values(), 1..4)) {
        let value = Value::Object(value.into_iter().collect());
        let text = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(one(&text).value, value);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-a-z0-9:{}\\[\\], \n&*!|>'\"#?%]{0,80}") {
        let _ = parse(text.as_bytes());
    }
}
