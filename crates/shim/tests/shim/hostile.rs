//! Images, manifests and containers that mean harm.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use podd_shim::wire::{Mount, MountKind, PidNamespace, Request, ShimErrorKind};

use crate::harness::{Node, exec_of, program, read_all, refusal, shell};

fn bind(source: &Path, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind { source: source.into(), recursive: false },
        ..Mount::default()
    }
}

#[test]
fn an_image_can_not_have_the_kernels_files_elsewhere() {
    for name in ["proc", "sys", "dev"] {
        let mut node = Node::new();
        symlink("/etc", node.path("layer").join(name)).unwrap();
        let spec = node.spec("a", "true");
        let error = node.refused(Request::Create(Box::new(spec)));
        assert_eq!(error.kind, ShimErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(&format!("/{name}")), "{error}");
    }
}

#[test]
fn a_mount_through_a_link_that_points_out_lands_inside() {
    let mut node = Node::new();
    let outside = node.path("outside");
    let source = node.path("source");
    for directory in [&outside, &source] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(source.join("file"), "mounted").unwrap();
    symlink(&outside, node.path("layer/absolute")).unwrap();
    symlink("../../../../../../../../../..", node.path("layer/relative")).unwrap();
    let mut spec = node.spec("a", "cat /absolute/one/file /relative/two/file /two/file");
    spec.mounts = vec![bind(&source, "/absolute/one"), bind(&source, "/relative/two")];
    assert_eq!(node.output(spec), ["mountedmountedmounted"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing was made outside");
    assert!(!Path::new("/two").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(node.path("").to_str().unwrap()), "no mount of the container's travels to the host");
}

#[test]
fn nothing_is_mounted_in_the_containers_proc_nor_over_its_root() {
    let mut node = Node::new();
    let source = node.path("source");
    fs::create_dir(&source).unwrap();
    symlink("/proc/sys", node.path("layer/link")).unwrap();
    for destination in ["/proc/sys", "/link", "/", "/.."] {
        let mut spec = node.spec("a", "true");
        spec.mounts = vec![bind(&source, destination)];
        let error = node.refused(Request::Create(Box::new(spec)));
        assert_eq!(error.kind, ShimErrorKind::Invalid, "{destination}: {error}");
    }
}

#[test]
fn a_working_directory_lies_inside() {
    let mut node = Node::new();
    let outside = node.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, node.path("layer/out")).unwrap();
    let mut spec = node.spec("a", "pwd -P");
    spec.process.cwd = "/out/work".into();
    assert_eq!(node.output(spec), [format!("{}/work", outside.display())], "the same path, of the container's root");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for cwd in ["/proc/self/fd/3", "/proc/self/cwd", "/proc/1/root"] {
        let mut spec = node.spec("b", "true");
        spec.process.cwd = cwd.into();
        node.refused(Request::Create(Box::new(spec)));
    }
}

#[test]
fn odd_files_where_users_are_looked_up_hold_nobody_up() {
    let mut node = Node::new();
    for name in ["passwd", "group"] {
        let path = node.path("layer/etc").join(name);
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    }
    assert_eq!(node.output(node.spec("a", "echo $HOME")), ["/"]);
}

#[test]
fn neighbours_see_nothing_of_a_child_that_waits() {
    let mut node = Node::with(podd_shim::wire::SandboxSpec { pid_namespace: true, ..Default::default() });
    let mut spec = node.spec("a", "true");
    spec.namespaces.pid = PidNamespace::Pod;
    let child = node.create(spec).pid;
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let pid = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap().split_whitespace().last().unwrap();
    let files = ["readlink exe", "readlink fd/0", "cat maps", "ls root/", ": > mem"];
    let attempts = files.map(|attempt| format!("({attempt}) >/dev/null 2>&1 && echo '{attempt}';")).concat();
    let mut spec = node.spec("b", &format!("cd /proc/{pid}; {attempts} pwd"));
    spec.namespaces.pid = PidNamespace::Pod;
    let mut powerful = node.spec("c", "");
    powerful.process = spec.process.clone();
    powerful.namespaces.pid = PidNamespace::Pod;
    let here = format!("/proc/{pid}");
    assert_eq!(node.output(spec), [here.as_str()], "it is there, and closed");
    // Who may trace everybody gets in: the attempts are worth something.
    let all = podd_sys::capability::ALL;
    let sets = &mut powerful.process.capabilities;
    (sets.bounding, sets.permitted, sets.effective) = (all, all, all);
    assert_eq!(node.output(powerful), [&files[..], &[here.as_str()]].concat());
    let mut open: Vec<_> =
        fs::read_dir(format!("/proc/{child}/fd")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2", "3"], "its standard descriptors and the channel to the shim");
}

#[test]
fn the_shims_binary_can_not_be_overwritten() {
    let mut node = Node::new();
    // As CVE-2019-5736 had it: the container runs what runs it, which then waits to be written to.
    let mut spec = node.spec("a", "");
    spec.process = program(&["/proc/self/exe"]);
    node.create(spec);
    // The binary that is run so finds nothing to serve, or is not found at all; either way it ends.
    if node.client.call(Request::Start { id: "a".into() }).is_ok() {
        assert_ne!(node.exit("a").code, 0);
    }
    let exe = format!("/proc/{}/exe", node.shim.pid);
    let refused = fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
    assert!(fs::read_link(&exe).unwrap().to_string_lossy().starts_with("/memfd:podd-shim"));
    assert!(matches!(refused.raw_os_error(), Some(1 | 26)), "{refused}");
    let seals = rustix::fs::fcntl_get_seals(fs::File::open(&exe).unwrap()).unwrap();
    assert!(seals.contains(rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SEAL));
}

#[test]
fn a_container_has_its_capabilities_its_filter_and_no_more() {
    let mut node = Node::new();
    let script = "grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status";
    let mut spec = node.spec("a", script);
    spec.process.no_new_privileges = true;
    let have = podd_sys::capability::bounding().unwrap() & podd_sys::capability::DEFAULT;
    let lines = |nnp: u32| {
        [
            format!("CapPrm:\t{have:016x}"),
            format!("CapEff:\t{have:016x}"),
            format!("CapBnd:\t{have:016x}"),
            format!("NoNewPrivs:\t{nnp}"),
            "Seccomp:\t2".to_owned(),
        ]
    };
    assert_eq!(node.output(spec), lines(1));
    node.run(node.spec("b", "sleep 1000"));
    let (_, output) = node.exec(exec_of("b", "x", shell(script))).unwrap();
    assert_eq!(read_all(output).lines().collect::<Vec<_>>(), lines(0));
}

#[test]
fn masked_paths_are_hidden_and_read_only_ones_refuse_writes() {
    let mut node = Node::new();
    let script = "cat /proc/kcore; ls /proc/acpi; echo 1 2>&- > /proc/sys/kernel/domainname || echo refused; \
                  touch /sys/x || echo refused; echo fine > /file && cat /file";
    let mut spec =
        node.spec("a", &script.replace("; touch", " 2>/dev/null; touch").replace("/sys/x", "/sys/x 2>/dev/null"));
    spec.masked_paths = vec!["/proc/kcore".into(), "/proc/acpi".into(), "/proc/no-such-file".into()];
    spec.readonly_paths = vec!["/proc/sys".into(), "/no-such-file".into()];
    let texts: Vec<String> = node.output(spec);
    let stdout: Vec<_> = node.log("a").into_iter().filter(|line| line.stream == "stdout").collect();
    assert_eq!(
        stdout.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
        ["refused", "refused", "fine"],
        "{texts:?}"
    );
}

#[test]
fn a_read_only_root_refuses_writes_and_a_writable_one_keeps_them_from_the_image() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "touch /bin/new 2>/dev/null || echo refused");
    spec.rootfs.readonly = true;
    assert_eq!(node.output(spec), ["refused"]);
    node.finish(node.spec("b", "touch /bin/new"));
    assert!(!node.path("layer/bin/new").exists());
    assert!(node.path("b/upper/bin/new").exists());
}

#[test]
fn an_exec_is_closed_to_the_container_until_it_is_its_own() {
    let mut node = Node::new();
    node.run(node.spec("a", "sleep 1000"));
    // What the runtime itself would be made to run.
    let outcome = node.exec(exec_of("a", "x", program(&["/proc/self/exe"])));
    if let Ok((_, output)) = outcome {
        read_all(output);
        assert_ne!(node.exec_exit("x").code, 0);
    } else {
        refusal(outcome);
    }
    let (_, output) = node.exec(exec_of("a", "y", shell("echo still here"))).unwrap();
    assert_eq!(read_all(output), "still here\n");
}
