//! CheckpointContainer: with the machine's CRIU where it works, with a stand-in for what does not depend on it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod world;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use podd_runtime::Runtime;
use tonic::{Code, Request, Status};
use world::{Bench, container, create, exec, on_a_node, remove_sandbox, run_sandbox, start, status};

/// Changes its image (a file more, a file less), and counts in memory and into a file.
const SCRIPT: &str =
    "echo kept >/made; rm /etc/passwd; n=0; while true; do n=$((n+1)); echo $n >/count; sleep 0.01; done";

/// The program to use: `PODD_TEST_CRIU` names one that is not in PATH.
fn criu() -> PathBuf {
    std::env::var_os("PODD_TEST_CRIU").map_or_else(|| "criu".into(), PathBuf::from)
}

/// Whether CRIU is there and fit for this kernel, by its own word.
fn works() -> bool {
    Command::new(criu()).arg("check").output().is_ok_and(|output| output.status.success())
}

async fn checkpoint(runtime: &Runtime, id: &str, location: &Path, timeout: i64) -> Result<(), Status> {
    let location = location.display().to_string();
    let request = CheckpointContainerRequest { container_id: id.into(), location, timeout };
    runtime.checkpoint_container(Request::new(request)).await.map(drop)
}

async fn running(runtime: &Runtime, bench: &Bench) -> (String, String) {
    let pod = bench.sandbox("a");
    let sandbox = run_sandbox(runtime, &pod).await;
    let id = create(runtime, &sandbox, &pod, container("c", SCRIPT)).await;
    start(runtime, &id).await;
    for _ in 0..2000 {
        if exec(runtime, &id, "test -s /count").await.exit_code == 0 {
            return (sandbox, id);
        }
    }
    panic!("it does not count");
}

async fn count(runtime: &Runtime, id: &str) -> u64 {
    for _ in 0..100 {
        // Between the file's truncation and the write there is nothing in it.
        if let Ok(count) = String::from_utf8_lossy(&exec(runtime, id, "cat /count").await.stdout).trim().parse() {
            return count;
        }
    }
    panic!("no count");
}

/// It runs, it gets on, and nothing of a checkpoint is left beside it.
async fn goes_on(runtime: &Runtime, bench: &Bench, id: &str) {
    assert_eq!(status(runtime, id).await.state, ContainerState::ContainerRunning as i32);
    let before = count(runtime, id).await;
    let mut after = before;
    for _ in 0..200 {
        after = count(runtime, id).await;
        if after > before {
            break;
        }
    }
    assert!(after > before, "it stands still at {before}");
    assert!(!bench.path("root").join("containers").join(id).join("checkpoint").exists());
}

fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .expect("a directory can be read")
        .map(|entry| entry.expect("an entry can be read").file_name().into_string().expect("a plain name"))
        .collect()
}

fn files(archive: impl std::io::Read) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn stand_in(bench: &Bench, script: &str) -> PathBuf {
    let program = bench.path("stand-in");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn a_checkpoint_is_an_archive_of_a_container_that_goes_on() {
    on_a_node("a_checkpoint_is_an_archive_of_a_container_that_goes_on", |bench| async move {
        let runtime = bench.open_with(|config| config.criu = criu()).await;
        let (sandbox, id) = running(&runtime, &bench).await;
        let place = bench.path("place");
        std::fs::create_dir(&place).unwrap();
        let made = checkpoint(&runtime, &id, &place.join("c.tar"), 120).await;
        goes_on(&runtime, &bench, &id).await;
        if works() {
            made.unwrap();
            assert_eq!(names(&place), ["c.tar"]);
            let file = std::fs::File::open(place.join("c.tar")).unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let files = files(file);
            let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&files[name]).unwrap();
            let (config, spec) = (json("config.dump"), json("spec.dump"));
            assert_eq!(
                (&config["id"], &config["rootfsImageName"]),
                (&id.as_str().into(), &podd_tests::image::BUSYBOX.into())
            );
            assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-id"], sandbox);
            assert_eq!(spec["process"]["args"][2], SCRIPT);
            assert!(json("status")["Pid"].as_u64().unwrap() > 0);
            for name in ["inventory.img", "pstree.img", "core-1.img", "pages-1.img"] {
                assert!(!files[&format!("checkpoint/{name}")].is_empty(), "{name}");
            }
            let log = String::from_utf8_lossy(&files["dump.log"]);
            assert!(log.contains("Dumping finished successfully"), "{log}");
            let changed = self::files(&files["rootfs-diff.tar"][..]);
            assert_eq!(changed["made"], b"kept\n");
            assert_eq!(json("deleted.files"), serde_json::json!(["etc/passwd"]));
            // Again, over the one that is there.
            checkpoint(&runtime, &id, &place.join("c.tar"), 0).await.unwrap();
            assert_eq!(names(&place), ["c.tar"]);
            goes_on(&runtime, &bench, &id).await;
        } else {
            let refused = made.unwrap_err();
            println!("no CRIU works here; refused: {refused:?}");
            let expected = if Command::new(criu()).arg("--version").output().is_ok() {
                Code::Internal
            } else {
                Code::FailedPrecondition
            };
            assert_eq!(refused.code(), expected, "{refused:?}");
            assert!(names(&place).is_empty());
        }
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn criu_is_told_of_the_container_and_its_reason_is_passed_on() {
    on_a_node("criu_is_told_of_the_container_and_its_reason_is_passed_on", |bench| async move {
        let told = bench.path("told");
        let script = format!(
            "printf '%s\\n' \"$@\" >{}\nwhile [ \"$1\" != --work-dir ]; do shift; done\n\
            echo '(00.1) Error (criu/x.c:7): no such luck' >\"$2/dump.log\"\nexit 3",
            told.display()
        );
        let program = stand_in(&bench, &script);
        let runtime = bench.open_with(|config| config.criu = program).await;
        let (sandbox, id) = running(&runtime, &bench).await;
        let place = bench.path("place");
        std::fs::create_dir(&place).unwrap();
        let refused = checkpoint(&runtime, &id, &place.join("c.tar"), 7).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        assert!(refused.message().contains("Error (criu/x.c:7): no such luck"), "{refused:?}");
        assert!(names(&place).is_empty());
        goes_on(&runtime, &bench, &id).await;

        let told = std::fs::read_to_string(told).unwrap();
        let told: Vec<&str> = told.lines().collect();
        let value = |option: &str| told[told.iter().position(|word| *word == option).expect(option) + 1];
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let info = runtime.container_status(Request::new(request)).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        assert_eq!((told[0], value("--tree")), ("dump", info["pid"].to_string().as_str()));
        for word in ["--leave-running", "--tcp-established", "--shell-job", "--manage-cgroups=ignore"] {
            assert!(told.contains(&word), "{word} in {told:?}");
        }
        for mount in ["mnt[/proc]:/proc", "mnt[/dev]:/dev", "mnt[/dev/shm]:/dev/shm"] {
            assert!(told.contains(&mount), "{mount} in {told:?}");
        }
        assert!(!told.iter().any(|word| word.starts_with("mnt[/]")), "{told:?}");
        assert!(told.iter().any(|word| word.starts_with("net[")), "{told:?}");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn a_checkpoint_that_takes_too_long_ends_with_all_that_it_started() {
    on_a_node("a_checkpoint_that_takes_too_long_ends_with_all_that_it_started", |bench| async move {
        let pids = bench.path("pids");
        let program = stand_in(&bench, &format!("sleep 1000 & echo $$ $! >{}; wait", pids.display()));
        let runtime = bench.open_with(|config| config.criu = program).await;
        let (sandbox, id) = running(&runtime, &bench).await;
        let refused = checkpoint(&runtime, &id, &bench.path("c.tar"), 1).await.unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        assert!(!names(bench.directory.path()).iter().any(|name| name.starts_with("c.tar")));
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            let stat = format!("/proc/{pid}/stat");
            let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
            for _ in 0..2000 {
                if gone() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            assert!(gone(), "{pid} goes on");
        }
        goes_on(&runtime, &bench, &id).await;
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}
