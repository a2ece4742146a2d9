//! What profiles in files come to, call by call.

use podd_sys::capability::parse;

use super::*;

const BARE: Conditions = Conditions { capabilities: 0, kernel: (6, 1) };
const NO: Action = Action::Errno(1);

fn profile(json: &str) -> Profile {
    serde_json::from_str(json).unwrap()
}

/// The rule of a call under a profile.
fn rule(profile: &Profile, conditions: &Conditions, abi: Abi, name: &str) -> Rule {
    let (own, others) = profile.rules(conditions).unwrap();
    let number = abi.numbers()[name];
    match others.iter().find(|(architecture, _)| *architecture == abi.architecture()) {
        Some((_, rules)) => rules.at(number).clone(),
        None => own.at(number).clone(),
    }
}

fn verdict(json: &str, conditions: &Conditions, name: &str) -> Action {
    let rule = rule(&profile(json), conditions, Abi::X86_64, name);
    assert!(rule.alternatives.is_empty(), "{name}");
    rule.otherwise
}

#[test]
fn a_profile_that_blocks_some_calls_lets_the_rest_through() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","nonsense"],"action":"SCMP_ACT_ERRNO"},
        {"name":"sethostname","action":"SCMP_ACT_ERRNO","errnoRet":13},{"names":["mount"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    for (name, want) in [
        ("chmod", NO),
        ("fchmodat", NO),
        ("sethostname", Action::Errno(13)),
        ("mount", Action::KillProcess),
        ("read", Action::Allow),
        ("file_setattr", Action::Allow),
    ] {
        assert_eq!(verdict(json, &BARE, name), want, "{name}");
    }
}

#[test]
fn under_a_profile_that_denies_what_is_newer_than_it_does_not_exist() {
    let json =
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","clone3"],"action":"SCMP_ACT_ALLOW"}]}"#;
    for (name, want) in
        [("read", Action::Allow), ("chmod", NO), ("clone3", Action::Allow), ("close_range", Action::Errno(38))]
    {
        assert_eq!(verdict(json, &BARE, name), want, "{name}");
    }
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38}"#;
    assert_eq!(verdict(json, &BARE, "read"), Action::Errno(38));
    assert_eq!(verdict(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#, &BARE, "file_setattr"), NO);
}

#[test]
fn entries_hold_for_capabilities_architectures_and_kernels_that_they_name() {
    let entry = |filter: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["bpf"],"action":"SCMP_ACT_ERRNO",{filter}}}]}}"#
        )
    };
    let able = Conditions { capabilities: parse("BPF").unwrap() | parse("SYS_ADMIN").unwrap(), ..BARE };
    for (filter, conditions, blocked) in [
        (r#""includes":{"caps":["CAP_BPF"]}"#, BARE, false),
        (r#""includes":{"caps":["CAP_BPF"]}"#, able, true),
        (r#""includes":{"caps":["CAP_BPF","CAP_SYS_TIME"]}"#, able, false),
        (r#""excludes":{"caps":["CAP_SYS_TIME","CAP_BPF"]}"#, able, false),
        (r#""excludes":{"caps":["CAP_BPF"]}"#, BARE, true),
        (r#""includes":{"caps":["CAP_OF_TOMORROW"]}"#, able, false),
        (r#""includes":{"arches":["arm64","amd64"]}"#, BARE, true),
        (r#""includes":{"arches":["arm64"]}"#, BARE, false),
        (r#""excludes":{"arches":["amd64"]}"#, BARE, false),
        (r#""includes":{"minKernel":"6.1"}"#, BARE, true),
        (r#""includes":{"minKernel":"6.2"}"#, BARE, false),
        (r#""excludes":{"minKernel":"4.8"}"#, BARE, false),
        (r#""includes":null,"excludes":{},"args":null"#, BARE, true),
    ] {
        let want = if blocked { NO } else { Action::Allow };
        assert_eq!(verdict(&entry(filter), &conditions, "bpf"), want, "{filter}");
    }
}

#[test]
fn arguments_are_alternatives_or_all_at_once_and_an_unconditional_entry_wins() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_GT"}]},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":255,"valueTwo":7,"op":"SCMP_CMP_MASKED_EQ"}]},
        {"names":["clone"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_NE"}]},
        {"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_LT"}]},
        {"names":["read"],"action":"SCMP_ACT_ALLOW"},
        {"names":["read"],"action":"SCMP_ACT_TRAP"}]}"#;
    let of = |name| rule(&profile(json), &BARE, Abi::X86_64, name);
    let is = |argument, operator, value| Comparison { argument, operator, value };
    let socket = vec![is(0, Operator::Equal, 1), is(1, Operator::Greater, 2)];
    assert_eq!(of("socket"), Rule { alternatives: vec![(socket, Action::Allow)], otherwise: NO });
    let one = |value| (vec![is(0, Operator::Equal, value)], Action::Allow);
    assert_eq!(of("personality"), Rule { alternatives: vec![one(0), one(8)], otherwise: NO });
    let masked = (vec![is(0, Operator::MaskedEqual { mask: 255 }, 7)], Action::Allow);
    let unequal = (vec![is(0, Operator::NotEqual, 1)], Action::Log);
    assert_eq!(of("clone"), Rule { alternatives: vec![masked, unequal], otherwise: NO });
    assert_eq!(of("read"), Action::Allow.into());
}

#[test]
fn an_architecture_that_is_not_listed_is_shut_out_and_a_listed_one_has_its_own_numbers() {
    let call = r#""syscalls":[{"names":["execve"],"action":"SCMP_ACT_ERRNO"}]"#;
    let maps = [
        r#""architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_ARM"]"#,
        r#""archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}]"#,
    ];
    for map in maps {
        let profile = profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{map},{call}}}"#));
        for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
            assert_eq!(rule(&profile, &BARE, abi, "execve"), NO.into(), "{abi:?}");
            assert_eq!(rule(&profile, &BARE, abi, "read"), Action::Allow.into(), "{abi:?}");
        }
    }
    let alone = profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":[],{call}}}"#));
    let (own, others) = alone.rules(&BARE).unwrap();
    assert!(others.is_empty());
    assert_eq!(own.foreign, Action::KillProcess);
    assert_eq!(rule(&alone, &BARE, Abi::X32, "read"), Action::KillProcess.into());
}

#[test]
fn a_profile_that_cannot_be_honoured_is_refused_with_the_place() {
    let call = |rest: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{{rest}}}]}}"#);
    for (json, word) in [
        (r#"{"defaultAction":"SCMP_ACT_DANCE"}"#.to_owned(), "defaultAction"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86"]}"#.to_owned(), "architecture"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#
                .to_owned(),
            "exclude each other",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#.to_owned(), "listenerPath"),
        (call(r#""names":["a"],"action":"SCMP_ACT_NOTIFY""#), "syscalls[0]: action SCMP_ACT_NOTIFY"),
        (call(r#""action":"SCMP_ACT_ALLOW""#), "names no system call"),
        (call(r#""name":"a","names":["b"],"action":"SCMP_ACT_ERRNO""#), "exclude each other"),
        (call(r#""names":["a"],"action":"SCMP_ACT_ERRNO","errnoRet":5000"#), "errno 5000"),
        (call(r#""names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]"#), "argument 6"),
        (call(r#""names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":0,"op":"EQ"}]"#), "operator"),
        (call(r#""names":["a"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"new"}"#), "minKernel"),
    ] {
        let error = profile(&json).compile(&BARE).unwrap_err();
        assert!(error.contains(word), "{json}: {error}");
    }
    let flags = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG"]}"#;
    assert_eq!(profile(flags).flags(), Ok(2));
    let flags = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#;
    assert!(profile(flags).flags().unwrap_err().contains("NEW_LISTENER"));
}

#[test]
fn a_profile_of_more_than_the_kernel_takes_is_refused() {
    let arguments = |value: u64| {
        format!(
            r#"{{"names":["read","open","stat","lstat","lseek"],"action":"SCMP_ACT_ERRNO","args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
        )
    };
    let entries: Vec<String> = (0..200).map(arguments).collect();
    let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, entries.join(","));
    assert!(profile(&json).compile(&BARE).unwrap_err().contains("more than the kernel's 4096"));
}

#[test]
fn a_file_is_read_only_if_it_is_one_and_short() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let refused = |path: &str| read(path).unwrap_err().to_string();
    assert!(refused("profiles/a.json").contains("absolute"));
    assert!(refused(&path("none")).contains("can't be opened"));
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::RUSR).unwrap();
    assert!(refused(&path("fifo")).contains("not a file"));
    std::fs::write(path("bad"), "{}").unwrap();
    assert!(refused(&path("bad")).contains("defaultAction"), "{}", refused(&path("bad")));
    std::fs::write(path("long"), vec![b' '; 1 << 20 | 1]).unwrap();
    assert!(refused(&path("long")).contains("longer than 1048576"));
    std::fs::write(path("good"), r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    read(&path("good")).unwrap();
}

#[test]
fn versions_are_compared_as_numbers() {
    for (text, want) in
        [("6.18.0-podd", Some((6, 18))), ("4.8", Some((4, 8))), ("6.1-rc3", Some((6, 1))), ("6", None), ("a.b", None)]
    {
        assert_eq!(version(text), want, "{text}");
    }
}
