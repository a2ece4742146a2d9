//! What else gets into a container: the content of images, host paths, devices by name, hooks.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use podd_cri::v1::*;
use podd_cri::{ImageService, RuntimeService};
use podd_runtime::Runtime;
use podd_tests::{Node, SOON, image, wait_for};
use tonic::{Code, Request, Status};
use world::{Bench, container, create, exec, exited, on_a_node, remove_sandbox, run_sandbox, start, status};

const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 0.05; done";

fn volume(image: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: "/volume".into(),
        readonly: true,
        image: Some(ImageSpec { image: image.into(), user_specified_image: "mine".into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

fn bind(host: &Path, inside: &str) -> Mount {
    Mount { host_path: host.display().to_string(), container_path: inside.into(), ..Default::default() }
}

/// Tries to create a container, which has to be refused, with nothing left of it.
async fn refused(runtime: &Runtime, sandbox: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> Status {
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.into(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    let error = runtime.create_container(Request::new(request)).await.expect_err("it is refused");
    let listed = runtime.list_containers(Request::new(ListContainersRequest::default())).await.unwrap().into_inner();
    assert!(listed.containers.is_empty(), "{:?}", listed.containers);
    error
}

async fn output(runtime: &Runtime, id: &str, script: &str) -> String {
    let ran = exec(runtime, id, script).await;
    String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr)
}

async fn remove(runtime: &Runtime, id: &str) {
    runtime.remove_container(Request::new(RemoveContainerRequest { container_id: id.into() })).await.unwrap();
}

#[test]
fn an_image_volume_outlives_its_image_and_a_restart() {
    on_a_node("an_image_volume_outlives_its_image_and_a_restart", |bench| async move {
        let runtime = bench.open().await;
        let (pod, busybox) = (bench.sandbox("a"), podd_tests::image::BUSYBOX);
        let sandbox = run_sandbox(&*runtime, &pod).await;
        for (change, code, named) in [
            (Mount { readonly: false, ..volume(busybox, "") }, Code::InvalidArgument, "readonly"),
            (volume("127.0.0.1:1/none:1", ""), Code::NotFound, "none:1"),
            (volume(busybox, "none/such"), Code::InvalidArgument, "the image has no none/such"),
            (volume(busybox, "../etc"), Code::InvalidArgument, "image_sub_path"),
            (volume(busybox, "/etc"), Code::InvalidArgument, "image_sub_path"),
            (Mount { host_path: "/etc".into(), ..volume(busybox, "") }, Code::InvalidArgument, "exclude each other"),
        ] {
            let config = ContainerConfig { mounts: vec![change], ..container("refused", SLEEP) };
            let error = refused(&runtime, &sandbox, &pod, config).await;
            assert_eq!(error.code(), code, "{error:?}");
            assert!(error.message().contains(named), "{error:?}");
        }

        let mounts = vec![volume(busybox, ""), Mount { container_path: "/sub".into(), ..volume(busybox, "bin") }];
        let id = create(&*runtime, &sandbox, &pod, ContainerConfig { mounts, ..container("c", SLEEP) }).await;
        start(&*runtime, &id).await;
        assert_eq!(
            output(&runtime, &id, "/volume/bin/echo runs; test -x /sub/busybox && echo sub").await,
            "runs\nsub\n"
        );
        assert!(output(&runtime, &id, "touch /volume/x").await.contains("Read-only"));
        let shown = status(&*runtime, &id).await;
        let image = shown.mounts[0].image.clone().unwrap();
        assert_eq!((image.image.as_str(), image.image_ref.as_str()), (busybox, shown.image_id.as_str()));
        assert_eq!((image.user_specified_image.as_str(), shown.mounts[1].image_sub_path.as_str()), ("mine", "bin"));

        // An image that is nothing but a volume, of two layers.
        let files = [("data/low", "low\n"), ("data/high", "high\n")];
        let archive = image::of_files(bench.directory.path(), "localhost/data:1", &files);
        runtime.images().load(fs::File::open(archive).unwrap()).await.unwrap();
        let config = ContainerConfig { mounts: vec![volume("localhost/data:1", "data")], ..container("d", SLEEP) };
        let data = create(&*runtime, &sandbox, &pod, config).await;
        start(&*runtime, &data).await;
        runtime.close().await;
        drop(runtime);
        let runtime = bench.open().await;
        let layers = || fs::read_dir(bench.path("root/images/layers")).unwrap().count();
        let all = layers();
        for name in [busybox, "localhost/data:1"] {
            let spec = Some(ImageSpec { image: name.into(), ..Default::default() });
            runtime.remove_image(Request::new(RemoveImageRequest { image: spec })).await.unwrap();
        }
        assert_eq!((layers(), all), (3, 3), "they are in use");
        assert_eq!(output(&runtime, &id, "/volume/bin/echo runs; ls /sub/busybox").await, "runs\n/sub/busybox\n");
        assert_eq!(output(&runtime, &data, "cat /volume/low /volume/high").await, "low\nhigh\n");
        remove(&runtime, &data).await;
        assert_eq!(layers(), 1, "a volume's go with their last user, too");
        remove_sandbox(&*runtime, &sandbox).await;
        assert_eq!(layers(), 0, "the last user takes them along");
    });
}

#[test]
fn host_paths_are_mounted_as_what_they_are_and_as_far_as_they_propagate() {
    let name = "host_paths_are_mounted_as_what_they_are_and_as_far_as_they_propagate";
    on_a_node(name, |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&*runtime, &pod).await;
        let (missing, file, tree) = (bench.path("missing/deep"), bench.path("file"), bench.path("tree"));
        fs::write(&file, "a file\n").unwrap();
        fs::create_dir_all(tree.join("inner")).unwrap();
        let mount = |args: &[&str], at: &Path| {
            let done = Command::new("mount").args(args).arg(at).status().unwrap();
            assert!(done.success(), "mount {args:?}");
        };
        mount(&["-t", "tmpfs", "none"], &tree.join("inner"));

        for (propagation, named) in [
            (MountPropagation::PropagationHostToContainer, "not a shared or slave mount"),
            (MountPropagation::PropagationBidirectional, "not a shared mount"),
        ] {
            let mounts = vec![Mount { propagation: propagation as i32, ..bind(&tree.join("inner"), "/m") }];
            let error = refused(&runtime, &sandbox, &pod, ContainerConfig { mounts, ..container("r", SLEEP) }).await;
            assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
            assert!(error.message().contains(named) && error.message().contains("inner"), "{error:?}");
        }
        let mounts = vec![Mount { recursive_read_only: true, ..bind(&tree, "/m") }];
        let error = refused(&runtime, &sandbox, &pod, ContainerConfig { mounts, ..container("r", SLEEP) }).await;
        assert!(error.message().contains("recursive_read_only needs readonly"), "{error:?}");

        mount(&["--make-shared"], &tree.join("inner"));
        let follow = MountPropagation::PropagationHostToContainer as i32;
        let mounts = vec![
            Mount { propagation: follow, ..bind(&tree.join("inner"), "/follow") },
            Mount { readonly: true, recursive_read_only: true, selinux_relabel: true, ..bind(&tree, "/tree") },
            bind(&file, "/etc/hosts"),
            bind(&file, "/dev/message"),
            bind(&missing, "/missing"),
        ];
        let id = create(&*runtime, &sandbox, &pod, ContainerConfig { mounts, ..container("c", SLEEP) }).await;
        start(&*runtime, &id).await;
        assert!(missing.is_dir(), "made, as other runtimes do");
        assert_eq!(output(&runtime, &id, "cat /etc/hosts /dev/message; ls /missing").await, "a file\na file\n");
        assert!(output(&runtime, &id, "touch /tree/inner/x").await.contains("Read-only"));
        fs::create_dir(tree.join("inner/late")).unwrap();
        mount(&["-t", "tmpfs", "none"], &tree.join("inner/late"));
        fs::write(tree.join("inner/late/told"), "").unwrap();
        assert_eq!(output(&runtime, &id, "ls /follow/late").await, "told\n");
        let shown = status(&*runtime, &id).await.mounts;
        assert_eq!((shown[0].propagation, shown[1].recursive_read_only, shown.len()), (follow, true, 5));
        remove_sandbox(&*runtime, &sandbox).await;
        for at in [tree.join("inner/late"), tree.join("inner")] {
            assert!(Command::new("umount").arg(at).status().unwrap().success());
        }
    });
}

#[test]
fn a_cdi_device_brings_its_node_its_mounts_and_its_variables() {
    on_a_node("a_cdi_device_brings_its_node_its_mounts_and_its_variables", |bench| async move {
        let cdi = bench.path("cdi");
        fs::create_dir(&cdi).unwrap();
        fs::write(bench.path("driver"), "the driver\n").unwrap();
        let told = bench.path("told");
        let spec = format!(
            "cdiVersion: 0.7.0\nkind: vendor.com/dev\ncontainerEdits: {{env: [VENDOR=yes]}}\ndevices:\n\
            - name: one\n  containerEdits:\n    env: [DEVICE=one]\n    additionalGids: [4444]\n\
            \x20   deviceNodes: [{{path: /dev/one, hostPath: /dev/kmsg, permissions: w}}]\n\
            \x20   mounts: [{{hostPath: {driver}, containerPath: /opt/driver, options: [ro, nosuid, nodev, bind]}}]\n\
            \x20   hooks: [{{hookName: poststop, path: /bin/sh, args: [sh, -c, 'cat >{told}']}}]\n",
            driver = bench.path("driver").display(),
            told = told.display(),
        );
        fs::write(cdi.join("vendor.yaml"), spec).unwrap();
        let runtime = bench.open_with(|config| config.cdi_dirs = vec![cdi.clone()]).await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&*runtime, &pod).await;
        let with = |name: &str, device: &str| ContainerConfig {
            cdi_devices: vec![CdiDevice { name: device.into() }],
            ..container(name, SLEEP)
        };
        let error = refused(&runtime, &sandbox, &pod, with("r", "vendor.com/dev=two")).await;
        assert!(error.message().contains("unresolvable CDI devices vendor.com/dev=two"), "{error:?}");
        let error = refused(&runtime, &sandbox, &pod, with("r", "nonsense")).await;
        assert!(error.message().contains("CDI device \"nonsense\""), "{error:?}");

        let id = create(&*runtime, &sandbox, &pod, with("c", "vendor.com/dev=one")).await;
        start(&*runtime, &id).await;
        let seen = output(
            &runtime,
            &id,
            "echo $VENDOR $DEVICE; cat /opt/driver; (exec 3>/dev/one) && echo opens; id -G; \
            (exec 3</dev/one) 2>/dev/null || echo refused; touch /opt/driver 2>/dev/null || echo kept",
        )
        .await;
        assert_eq!(seen, "yes one\nthe driver\nopens\n0 4444\nrefused\nkept\n");
        remove(&runtime, &id).await;
        assert!(fs::read_to_string(&told).unwrap().contains(r#""status":"stopped""#));

        // The older way to ask.
        let mut config = container("d", SLEEP);
        config.annotations.insert("cdi.k8s.io/plugin".into(), "vendor.com/dev=one".into());
        let id = create(&*runtime, &sandbox, &pod, config).await;
        start(&*runtime, &id).await;
        assert_eq!(output(&runtime, &id, "echo $DEVICE").await, "one\n");
        remove_sandbox(&*runtime, &sandbox).await;
    });
}

#[test]
fn a_device_may_be_used_as_its_permissions_say() {
    on_a_node("a_device_may_be_used_as_its_permissions_say", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&*runtime, &pod).await;
        let device = |inside: &str, permissions: &str| Device {
            host_path: "/dev/kmsg".into(),
            container_path: inside.into(),
            permissions: permissions.into(),
        };
        let config = ContainerConfig {
            devices: vec![device("/dev/write", "w"), device("/dev/deep/same", "w")],
            ..container("c", SLEEP)
        };
        let id = create(&*runtime, &sandbox, &pod, config).await;
        start(&*runtime, &id).await;
        let script = "for d in /dev/write /dev/deep/same; do test -c $d || echo none; \
            (exec 3>$d) && echo opens; (exec 3<$d) 2>/dev/null || echo refused; done";
        assert_eq!(output(&runtime, &id, script).await, "opens\nrefused\nopens\nrefused\n");
        // Without it the number alone opens nothing.
        let plain = create(&*runtime, &sandbox, &pod, container("plain", SLEEP)).await;
        start(&*runtime, &plain).await;
        let script = "mknod /node c 1 11 && echo made; (exec 3>/node) 2>/dev/null || echo refused";
        assert_eq!(output(&runtime, &plain, script).await, "made\nrefused\n");
        for (host, named) in [("/etc/passwd", "is not a device"), ("/dev/none-such", "/dev/none-such")] {
            let devices =
                vec![Device { host_path: host.into(), container_path: "/dev/x".into(), ..Default::default() }];
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(ContainerConfig { devices, ..container("r", SLEEP) }),
                sandbox_config: Some(pod.clone()),
            };
            let error = runtime.create_container(Request::new(request)).await.expect_err("it is refused");
            assert!(error.message().contains(named), "{error:?}");
        }
        remove_sandbox(&*runtime, &sandbox).await;
    });
}

/// A hook file, whose program notes its name, the status it was told and who knows it.
fn hook(bench: &Bench, name: &str, stages: &[&str], script: &str) {
    let program = bench.path(&format!("{name}.sh"));
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(bench.path("hooks.d")).unwrap();
    let file = serde_json::json!({
        "version": "1.0.0",
        "hook": { "path": program, "args": [name], "env": ["PATH=/usr/bin:/bin"], "timeout": 20 },
        "when": { "annotations": { "^hooked$": "^yes$" } },
        "stages": stages,
    });
    fs::write(bench.path(&format!("hooks.d/{name}.json")), file.to_string()).unwrap();
}

fn hooked(name: &str, script: &str) -> ContainerConfig {
    let mut config = container(name, script);
    config.annotations.insert("hooked".into(), "yes".into());
    config
}

#[test]
fn hooks_run_in_the_order_of_the_life_of_a_container() {
    on_a_node("hooks_run_in_the_order_of_the_life_of_a_container", |bench| async move {
        let told = bench.path("told");
        let note = |stage: &str| {
            let told = told.display();
            format!("status=$(grep -o '\"status\":\"[a-z]*\"' | cut -d'\"' -f4); echo {stage} $status >>{told}")
        };
        let stages = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        for stage in stages {
            hook(&bench, stage, &[stage], &note(stage));
        }
        // On the host the root is found by way of the process that it is told of.
        let root = "state=$(cat); pid=$(echo $state | grep -o '\"pid\":[0-9]*' | cut -d: -f2); \
            bundle=$(echo $state | grep -o '\"bundle\":\"[^\"]*\"' | cut -d'\"' -f4); \
            test -s $bundle/config.json && echo by a hook >/proc/$pid/root$bundle/rootfs/mark";
        hook(&bench, "root", &["createRuntime"], root);
        let runtime = bench.open_with(|config| config.hooks_dirs = vec![bench.path("hooks.d")]).await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&*runtime, &pod).await;
        let id = create(&*runtime, &sandbox, &pod, hooked("c", SLEEP)).await;
        let so_far = || fs::read_to_string(&told).unwrap_or_default();
        let made = "prestart creating\ncreateRuntime creating\ncreateContainer creating\n";
        assert_eq!(so_far(), made);
        start(&*runtime, &id).await;
        assert_eq!(so_far(), format!("{made}poststart running\n"));
        assert_eq!(output(&runtime, &id, "cat /mark").await, "by a hook\n");

        // An end that nobody saw is followed by the same hook, once.
        runtime.close().await;
        drop(runtime);
        let pid =
            world::processes(&bench.group).into_iter().find(|(_, title)| title.starts_with("sh -c trap")).unwrap().0;
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let runtime = bench.open_with(|config| config.hooks_dirs = vec![bench.path("hooks.d")]).await;
        exited(&*runtime, &id).await;
        wait_for(SOON, "poststop at the end, not at the removal", || {
            if so_far().ends_with("poststop stopped\n") { Ok(()) } else { Err(so_far()) }
        });
        remove(&runtime, &id).await;
        assert_eq!(so_far(), format!("{made}poststart running\npoststop stopped\n"));

        let plain = create(&*runtime, &sandbox, &pod, container("plain", SLEEP)).await;
        start(&*runtime, &plain).await;
        remove_sandbox(&*runtime, &sandbox).await;
        assert_eq!(so_far().lines().count(), 5, "who is not meant has none");
    });
}

#[test]
fn a_hook_that_fails_stops_what_it_is_part_of() {
    on_a_node("a_hook_that_fails_stops_what_it_is_part_of", |bench| async move {
        let ended = bench.path("ended");
        hook(&bench, "end", &["poststop"], &format!("echo x >>{}", ended.display()));
        let runtime = bench.open_with(|config| config.hooks_dirs = vec![bench.path("hooks.d")]).await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&*runtime, &pod).await;
        let ends = || fs::read_to_string(&ended).unwrap_or_default().len() / 2;
        for (number, stage) in ["prestart", "createRuntime", "createContainer"].into_iter().enumerate() {
            hook(&bench, "wrong", &[stage], "echo not today >&2; exit 7");
            let error = refused(&runtime, &sandbox, &pod, hooked("c", SLEEP)).await;
            assert!(error.message().contains(stage) && error.message().contains("not today"), "{error:?}");
            assert_eq!(ends(), number + 1, "what it had is given back");
        }
        hook(&bench, "wrong", &["poststart"], "echo not today >&2; exit 7");
        let id = create(&*runtime, &sandbox, &pod, hooked("c", SLEEP)).await;
        let request = StartContainerRequest { container_id: id.clone() };
        let error = runtime.start_container(Request::new(request)).await.expect_err("its hook fails");
        assert!(error.message().contains("poststart") && error.message().contains("not today"), "{error:?}");
        assert_eq!(exited(&*runtime, &id).await.exit_code, 137);
        remove(&runtime, &id).await;
        assert_eq!(ends(), 4);
        fs::write(bench.path("hooks.d/wrong.json"), "{}").unwrap();
        let error = refused(&runtime, &sandbox, &pod, container("d", SLEEP)).await;
        assert!(error.message().contains("wrong.json"), "{error:?}");
        remove_sandbox(&*runtime, &sandbox).await;
    });
}

#[test]
fn a_crash_in_the_middle_of_a_hook_leaves_no_half_made_container() {
    let mut node = Node::new();
    let (waiting, go, hooks) = (node.path().join("waiting"), node.path().join("go"), node.path().join("hooks.d"));
    fs::create_dir(&hooks).unwrap();
    let script = format!("touch {}; while ! [ -e {} ]; do sleep 0.05; done", waiting.display(), go.display());
    let hook = serde_json::json!({
        "version": "1.0.0",
        "hook": { "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] },
        "when": { "always": true },
        "stages": ["createRuntime"],
    });
    fs::write(hooks.join("wait.json"), hook.to_string()).unwrap();
    node.file("config.toml", &format!("[runtime]\nhooks-dirs = [{:?}]\n", hooks.display().to_string()));
    node.start_agent();
    node.load_busybox();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
        - {{name: c, image: {:?}, command: [sleep, \"98765\"]}}\n",
        image::BUSYBOX
    );
    node.apply(&manifest).ok();
    wait_for(SOON, "the hook runs", || if waiting.exists() { Ok(()) } else { Err(node.agent_log()) });
    node.kill_agent();
    fs::write(&go, "").unwrap();
    node.start_agent();
    node.wait_field("pod/web", "/status/phase", "Running");
    let directories = fs::read_dir(node.path().join("root/containers")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(directories.filter(|path| path.is_dir()).count(), 1);
    let title = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert_eq!(node.processes().iter().filter(|pid| title(pid).contains("98765")).count(), 1);
    node.podd(&["delete", "pod", "web", "--wait"]);
}
