//! Names of images, good and bad.

use proptest::prelude::*;

use super::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_are_completed_as_docker_completes_them() {
    for (short, full) in [
        ("nginx", "docker.io/library/nginx:latest".to_owned()),
        ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
        ("team/app", "docker.io/team/app:latest".to_owned()),
        ("docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
        ("localhost/a", "localhost/a:latest".to_owned()),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1".to_owned()),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest".to_owned()),
        ("[::1]:5000/a:b", "[::1]:5000/a:b".to_owned()),
        ("Registry/a", "Registry/a:latest".to_owned()),
        ("ghcr.io/a/b_c/d__e/f--g", "ghcr.io/a/b_c/d__e/f--g:latest".to_owned()),
        (&format!("nginx@{D}"), format!("docker.io/library/nginx@{D}")),
        (&format!("r.io:1/x:tag@{D}"), format!("r.io:1/x@{D}")),
    ] {
        assert_eq!(Reference::parse(short).unwrap().to_string(), full, "{short}");
    }
}

#[test]
fn a_bad_name_is_refused_with_what_would_be_right() {
    let long = "a".repeat(256);
    let tag = format!("a:{}", "t".repeat(129));
    for (name, reason) in [
        ("", "empty"),
        ("a b", "' '"),
        ("naïve", "'ï'"),
        ("https://r.io/a", "scheme"),
        ("r.io/A", "lower case"),
        ("r.io/a//b", "slashes"),
        ("r.io/", "no repository"),
        ("/a", "slashes"),
        ("a:", "tag is empty"),
        ("a:-x", "must start"),
        (&tag, "128"),
        ("r.io:0/a", "port"),
        ("r.io:99999/a", "port"),
        ("r.io:+1/a", "port"),
        ("-r.io/a", "host name"),
        ("a.a_a/0", "host name"),
        ("[::1/a", "]"),
        ("r.io/a..b", "separate"),
        ("r.io/a_-b", "separate"),
        ("r.io/.a", "start and end"),
        ("a@sha512:00", "sha512"),
        ("a@sha256:00", "64 hex"),
        (&long, "255"),
        (&D[7..], "id"),
    ] {
        let error = Reference::parse(name).unwrap_err();
        assert!(error.reason.contains(reason), "{name}: {error}");
    }
}

fn component() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}"
}

fn registry() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("([a-z][a-z0-9]{0,4}\\.[a-z]{2,3}|localhost|127\\.0\\.0\\.1)(:[1-9][0-9]{0,3})?")
}

proptest! {
    #[test]
    fn a_complete_name_reads_back_as_itself(
        registry in registry(),
        path in proptest::collection::vec(component(), 1..4),
        tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        digest in proptest::option::of(any::<[u8; 4]>()),
    ) {
        // Without a registry, a first component with a dot would be read as one.
        let registry = registry.or_else(|| (path.len() > 1).then(|| "r.io".to_owned()));
        let mut name = registry.map(|registry| registry + "/").unwrap_or_default() + &path.join("/");
        if let Some(tag) = &tag {
            name += &format!(":{tag}");
        }
        if let Some(seed) = digest {
            name += &format!("@{}", Digest::of(&seed));
        }
        let parsed = Reference::parse(&name).unwrap();
        prop_assert_eq!(parsed.digest().is_some(), digest.is_some());
        prop_assert_eq!(Reference::parse(&parsed.to_string()).unwrap(), parsed);
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_accepts_is_stable(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}|.{0,20}") {
        if let Ok(parsed) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&parsed.to_string()).unwrap(), parsed);
        }
    }
}
