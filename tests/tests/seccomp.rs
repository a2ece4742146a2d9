//! System call profiles from files, through CRI in process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use podd_cri::RuntimeService;
use podd_cri::v1::security_profile::ProfileType;
use podd_cri::v1::*;
use tonic::{Code, Request};
use world::{Bench, container, create, exec, on_a_node, remove_sandbox, run_sandbox, start};

/// A file with this profile.
fn file(bench: &Bench, name: &str, json: &str) -> String {
    let path = bench.path(name);
    std::fs::write(&path, json).unwrap();
    path.display().to_string()
}

fn confined(name: &str, path: &str) -> ContainerConfig {
    let mut config = container(name, "sleep 1000");
    security(&mut config).seccomp =
        Some(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: path.into() });
    config
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

const NO_CHMOD: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
    "syscalls":[{"names":["chmod","fchmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;

#[test]
fn a_profile_from_a_file_holds_for_the_container_and_its_execs_and_outlives_the_file() {
    on_a_node(
        "a_profile_from_a_file_holds_for_the_container_and_its_execs_and_outlives_the_file",
        |bench| async move {
            let runtime = bench.open().await;
            let pod = bench.sandbox("a");
            let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
            let path = file(&bench, "no-chmod.json", NO_CHMOD);
            let script = "chmod 600 /tmp 2>&1; grep ^Seccomp: /proc/self/status; sleep 1000";
            let mut config = confined("c", &path);
            config.command[2] = script.into();
            let id = create(runtime.as_ref(), &sandbox, &pod, config).await;
            std::fs::remove_file(&path).unwrap();
            start(runtime.as_ref(), &id).await;
            let denied = exec(runtime.as_ref(), &id, "chmod 600 /tmp").await;
            let text = String::from_utf8_lossy(&denied.stderr).into_owned();
            assert!(denied.exit_code == 1 && text.contains("Operation not supported"), "{text}");
            // By the first process too, and nothing else is.
            let log = podd_tests::wait_for(podd_tests::SOON, "the container has said both", || {
                let log = std::fs::read_to_string(bench.path("logs/c.log")).unwrap_or_default();
                if log.lines().count() == 2 { Ok(log) } else { Err(log) }
            });
            assert!(log.contains("Operation not supported") && log.contains("Seccomp:\t2"), "{log}");
            remove_sandbox(runtime.as_ref(), &sandbox).await;
            runtime.close().await;
        },
    );
}

#[test]
fn a_profile_that_denies_by_default_runs_a_shell_with_what_it_allows() {
    on_a_node("a_profile_that_denies_by_default_runs_a_shell_with_what_it_allows", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        // Whatever a shell and the start of a container need; sethostname wants a capability by the profile as well.
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[{"names":["read","write","open","openat","close","stat","fstat","lstat","newfstatat","statx","poll","ppoll","lseek","mmap",
            "mprotect","munmap","brk","rt_sigaction","rt_sigprocmask","rt_sigreturn","ioctl","access","faccessat","faccessat2","pipe","pipe2","dup","dup2","dup3","getpid",
            "clone","clone3","fork","vfork","execve","exit","exit_group","wait4","uname","fcntl","getcwd","chdir","fchdir","readlink","umask","nanosleep","clock_nanosleep","clock_gettime",
            "getuid","geteuid","getgid","getegid","getppid","getpgrp","setpgid","arch_prctl","set_tid_address","set_robust_list","rseq","prlimit64","getrandom",
            "capset","capget","prctl","futex","getdents64","sendmsg","recvmsg","seccomp","writev","readv"],"action":"SCMP_ACT_ALLOW"},
            {"names":["sethostname"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
        let path = file(&bench, "little.json", json);
        let plain = create(runtime.as_ref(), &sandbox, &pod, confined("plain", &path)).await;
        start(runtime.as_ref(), &plain).await;
        let script = "echo on; hostname other 2>&1; mkdir /tmp/x 2>&1; hostname";
        let said = exec(runtime.as_ref(), &plain, script).await;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.starts_with("on\n") && said.contains("hostname: sethostname: Operation not permitted"), "{said}");
        assert!(said.contains("can't create directory '/tmp/x': Operation not permitted"), "{said}");
        let mut able = confined("able", &path);
        security(&mut able).capabilities =
            Some(Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() });
        let able = create(runtime.as_ref(), &sandbox, &pod, able).await;
        start(runtime.as_ref(), &able).await;
        assert_eq!(exec(runtime.as_ref(), &able, "hostname other && hostname").await.stdout, b"other\n");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn a_profile_that_cannot_be_honoured_is_refused_unless_the_container_is_privileged() {
    on_a_node("a_profile_that_cannot_be_honoured_is_refused_unless_the_container_is_privileged", |bench| async move {
        let runtime = bench.open().await;
        let mut pod = bench.sandbox("a");
        pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let missing = bench.path("none.json").display().to_string();
        let odd = file(&bench, "odd.json", r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#);
        for (path, word) in [(missing.as_str(), "can't be opened"), ("relative.json", "absolute"), (&odd, "NOTIFY")] {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(confined("c", path)),
                sandbox_config: Some(pod.clone()),
            };
            let refused = runtime.create_container(Request::new(request)).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(word) && refused.message().contains(path), "{refused}");
        }
        let mut privileged = confined("c", &missing);
        security(&mut privileged).privileged = true;
        let id = create(runtime.as_ref(), &sandbox, &pod, privileged).await;
        start(runtime.as_ref(), &id).await;
        assert_eq!(exec(runtime.as_ref(), &id, "grep ^Seccomp: /proc/self/status").await.stdout, b"Seccomp:\t0\n");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}
