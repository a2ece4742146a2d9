//! Finding the program, what it is told, what is passed on of its log, and how it ends.

use super::*;

#[test]
fn a_program_is_found_where_it_can_be_run() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("criu");
    let both = std::env::join_paths([Path::new("/nowhere"), directory.path()]).expect("join");
    let refused = |program: &Path| {
        let error = find(program, &both).expect_err("not to be run");
        assert!(matches!(error, CriError::Precondition(_)), "{error:?}");
        error.to_string()
    };
    assert!(refused(Path::new("criu")).contains("no program \"criu\" in PATH"));
    fs::write(&file, "").expect("write");
    assert!(refused(Path::new("criu")).contains("no program"));
    assert!(refused(&file).contains("cannot be run"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(find(Path::new("criu"), &both).expect("found"), file);
    assert_eq!(find(&file, OsStr::new("")).expect("found"), file);
}

#[test]
fn every_mount_but_the_root_is_told_once_and_by_its_real_name() {
    let table = b"94 65 0:41 / / rw - overlay none rw\n\
        95 94 0:43 / /proc rw - proc none rw\n\
        96 94 8:1 /x /a\\040b rw - ext4 none rw\n\
        97 94 8:1 /x /a\\040b rw - ext4 none rw\n";
    let told: Vec<OsString> = mount_points(table).into_iter().map(external_mount).collect();
    assert_eq!(told, ["mnt[/a b]:/a b", "mnt[/proc]:/proc"]);
    assert_eq!(unescape(b"\\134x\\9"), b"\\x\\9");
}

#[test]
fn the_last_errors_of_a_log_are_passed_on_without_their_times() {
    let log = "(00.01) Error (a.c:1): noise\n(00.02) fine\n(00.03) Error (b.c:2): cause\n\
        (00.04) Error (c.c:3): then\n(00.05) Error (d.c:4): Dumping FAILED.\n";
    let told = errors(log).expect("errors");
    assert_eq!(told, "Error (b.c:2): cause; Error (c.c:3): then; Error (d.c:4): Dumping FAILED.");
    assert_eq!(errors("(00.01) all is well\n"), None);
}

#[tokio::test]
async fn a_dump_that_nobody_waits_for_any_more_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (program, pids) = (directory.path().join("criu"), directory.path().join("pids"));
    let script = format!("#!/bin/sh\nsleep 1000 &\necho $$ $! >{0}.new\nmv {0}.new {0}\nwait\n", pids.display());
    fs::write(&program, script).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let plan = Plan { arguments: vec![], upper: "/".into(), directory: directory.path().to_owned() };
    let until = |done: &dyn Fn() -> bool| {
        let end = std::time::SystemTime::now() + Duration::from_secs(20);
        while !done() {
            assert!(std::time::SystemTime::now() < end, "in vain");
            std::thread::yield_now();
        }
    };
    {
        let mut dump = std::pin::pin!(dump(&program, &plan));
        let first = tokio::time::timeout(Duration::from_millis(1), &mut dump).await;
        assert!(first.is_err(), "it goes on");
        until(&|| pids.exists());
    }
    for pid in fs::read_to_string(&pids).expect("read").split_whitespace() {
        let stat = format!("/proc/{pid}/stat");
        // Whom nobody has reaped yet is dead too.
        until(&|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
    }
}
