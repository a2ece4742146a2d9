//! What is understood, and what is refused by its name.

use super::*;

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

/// Reads a command line written with spaces.
fn read(line: &str) -> Result<Command, String> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|error| error.to_string())
}

#[test]
fn what_people_type_is_understood() {
    let table = [
        "podd apply -f a.yaml -f b -R --wait --timeout 90s --dry-run=client -n x",
        "podd apply -f - --dry-run",
        "podd apply -f a --wait=true --dry-run=none",
        "podd apply -f a --replace --prune -l a=b",
        "podd apply -f a --prune --applyset configmap/x",
        "podd diff -f a.yaml -R -l a=b --force-conflicts",
        "podd why pod/a -n x --tail 3",
        "podd delete -f a.yaml --grace-period=0 --force --ignore-not-found",
        "podd delete pod a b --grace-period -1 --wait=false",
        "podd delete pods --all -l a=b",
        "podd get po -A -o wide -w --show-labels",
        "podd get pod/a node/b -o json",
        "podd describe pod a",
        "podd logs a -f -c main --previous --tail -1 --timestamps --since 5m",
        "podd logs pod/a main",
        "podd exec -it a -c main -- ls -l",
        "podd exec a ls -l",
        "podd attach -it pod/a -c main -q -n x",
        "podd port-forward pod/a 8080:80 :443 http --address localhost,10.0.0.1",
        "podd wait pod/a --for=condition=Ready --timeout=1m",
        "podd play kube a.yaml --replace --start=false --publish 8080:80 -w -q",
        "podd kube play --down a.yaml",
        "podd kube down a.yaml",
        "podd pull --creds u:p -q a b",
        "podd images -q",
        "podd rmi a",
        "podd load -i a.tar",
        "podd load -q a.tar",
        "podd load -",
        "podd agent --instance x --root /a --run /b --cgroup-root /c",
        "podd agent stop --pods --timeout 5s",
        "podd agent --api-socket /a --runtime-endpoint unix:///b",
        "podd cri --listen /a",
        "podd api --kubelet-socket /a",
        "podd version --client -o yaml",
        "podd completion zsh",
    ];
    for line in table {
        assert!(read(line).is_ok(), "{line}: {:?}", read(line));
    }
    let Ok(Command::Exec(exec)) = read("podd exec a -- ls -l -t") else { panic!("no exec") };
    assert_eq!((exec.command.join(" ").as_str(), exec.tty), ("ls -l -t", false));
    // A flag that may have a value has it after `=` only.
    let Ok(Command::Delete(delete)) = read("podd delete --wait pod a") else { panic!("no delete") };
    assert_eq!((delete.targets.join(" ").as_str(), delete.wait), ("pod a", true));
    let Ok(Command::Apply(apply)) = read("podd apply --wait --dry-run -f a") else { panic!("no apply") };
    assert_eq!((apply.wait, apply.dry_run.as_deref()), (true, Some("server")));
    // The last one wins; an empty namespace is none.
    let Ok(Command::Get(get)) = read("podd get pods -o wide -n x -o json -n ") else { panic!("no get") };
    assert_eq!((get.output, get.namespace.namespace.as_str()), (Some(Output::Json), "default"));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_name() {
    let table = [
        ("podd apply", "--filename"),
        ("podd apply -f a --dry-run=maybe", "maybe"),
        ("podd apply -f a --wait --timeout 5x", "5x"),
        ("podd apply -f a --prune --applyset x -l a=b", "--selector"),
        ("podd get", "KIND"),
        ("podd get pods -o foo", "foo"),
        ("podd exec a", "COMMAND"),
        ("podd port-forward a", "PORT"),
        ("podd attach", "POD"),
        ("podd logs a main -c main", "--container"),
        ("podd wait pod/a", "--for"),
        ("podd stop a", "stop"),
    ];
    for (line, name) in table {
        let error = read(line).unwrap_err();
        assert!(error.contains(name), "{line}: {error}");
    }
}

#[test]
fn every_flag_of_podman_that_podd_lacks_is_refused_by_name() {
    let flags = [
        "--annotation=a=b",
        "--authfile=a",
        "--build",
        "--cert-dir=a",
        "--configmap=a",
        "--context-dir=a",
        "--creds=a",
        "--force",
        "--ip=1.2.3.4",
        "--log-driver=a",
        "--log-opt=a",
        "--mac-address=a",
        "--network=a",
        "--no-hosts",
        "--no-hostname",
        "--no-pod-prefix",
        "--publish-all",
        "--seccomp-profile-root=a",
        "--service-container",
        "--tls-verify",
        "--userns=auto",
    ];
    for flag in flags {
        for command in ["podd play kube", "podd kube play"] {
            let error = read(&format!("{command} {flag} x.yaml")).unwrap_err();
            let name = flag.split('=').next().unwrap();
            assert!(error.contains(&format!("'{name}'")), "{command} {flag}: {error}");
        }
    }
}
