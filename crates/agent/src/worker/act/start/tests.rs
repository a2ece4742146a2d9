//! What a container is told to be, from a pod's spec.

use std::time::Duration;

use podd_core::swap::{Behavior, NodeSwap};
use serde_json::{Value, json};

use super::*;
use crate::worker::Prepared;

fn settings() -> Settings {
    Settings {
        log_root: "/var/log/pods".into(),
        pods_dir: "/pods".into(),
        seccomp_default: true,
        seccomp_profiles: "/profiles".into(),
        memory_capacity: 4 << 30,
        swap: None,
        default_limits: Default::default(),
        resync: Duration::from_secs(30),
        call_deadline: Duration::from_secs(120),
    }
}

fn pod(mut container: Value, spec: Value) -> Pod {
    container["name"] = json!("c");
    container["image"] = json!("web:1");
    let mut whole = json!({"containers": [container]});
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
    serde_json::from_value(json!({"metadata": metadata, "spec": whole})).expect("a pod")
}

fn configured(pod: &Pod, image_user: &ImageUser) -> v1::ContainerConfig {
    try_configured(pod, image_user).expect("a configuration")
}

fn try_configured(pod: &Pod, image_user: &ImageUser) -> Result<v1::ContainerConfig, Failure> {
    let start = Start { container: "c", sandbox_id: "s", restart_count: 2, image_ref: "sha256:1", target: None };
    let container = &*members(pod).into_iter().find(|member| member.name() == "c").expect("the container").spec;
    let prepared = Prepared::default();
    let sources = env::Sources {
        pod,
        objects: &Default::default(),
        pod_ips: &[],
        host_ips: &[],
        node: "node",
        limits: &Default::default(),
        prepared: &prepared,
    };
    let environment = env::environment(container, &sources).map_err(config_error)?;
    let made = Made { image_user, prepared: &prepared, environment, mounts: Vec::new() };
    config(pod, container, &start, made, &settings())
}

fn plain(container: Value) -> v1::ContainerConfig {
    configured(&pod(container, json!({})), &ImageUser::default())
}

fn security(container: Value, spec: Value, image_user: &ImageUser) -> v1::LinuxContainerSecurityContext {
    let config = configured(&pod(json!({"securityContext": container}), spec), image_user);
    config.linux.and_then(|linux| linux.security_context).expect("a security context")
}

#[test]
fn a_container_is_named_labelled_and_logged_as_by_the_kubelet() {
    let config = plain(json!({"workingDir": "/w"}));
    assert_eq!(config.metadata, Some(v1::ContainerMetadata { name: "c".into(), attempt: 2 }));
    let image = config.image.expect("an image");
    assert_eq!((&*image.image, &*image.user_specified_image), ("sha256:1", "web:1"));
    assert_eq!(config.log_path, "c/2.log");
    assert_eq!(config.working_dir, "/w");
    assert_eq!(config.labels["io.kubernetes.pod.uid"], "u");
    assert_eq!(config.labels["io.kubernetes.container.name"], "c");
    assert_eq!(config.annotations["io.kubernetes.container.restartCount"], "2");
    assert_eq!(config.annotations["io.kubernetes.pod.terminationGracePeriod"], "30");
}

#[test]
fn references_see_the_variables_before_them() {
    let config = plain(json!({
        "command": ["run", "$(B)"], "args": ["$(A)-$(NOPE)", "$$(A)"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C"}],
    }));
    let envs: Vec<_> = config.envs.iter().map(|env| (&*env.key, &*env.value)).collect();
    assert_eq!(envs, [("A", &b"1"[..]), ("B", b"1$(C)"), ("C", b"")]);
    assert_eq!(config.command, ["run", "1$(C)"]);
    assert_eq!(config.args, ["1-$(NOPE)", "$(A)"]);
}

#[test]
fn resources_are_the_kubelets_numbers() {
    let limits = json!({"cpu": "500m", "memory": "64Mi"});
    let config = plain(json!({"resources": {"limits": limits, "requests": limits}}));
    let resources = config.linux.and_then(|linux| linux.resources).expect("resources");
    assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (512, 50_000, 100_000));
    assert_eq!((resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes), (64 << 20, 64 << 20));
    assert_eq!(resources.oom_score_adj, -997);
    let nothing = plain(json!({})).linux.and_then(|linux| linux.resources).expect("resources");
    assert_eq!(
        (nothing.cpu_shares, nothing.cpu_quota, nothing.memory_limit_in_bytes, nothing.oom_score_adj),
        (2, 0, 0, 1000)
    );
}

#[test]
fn where_swap_is_bounded_by_itself_each_container_has_its_part_or_none() {
    let node = NodeSwap { behavior: Behavior::LimitedSwap, memory: 4 << 30, swap: 1 << 30 };
    let burstable = pod(json!({"resources": {"requests": {"memory": "1Gi"}}}), json!({}));
    let container = &burstable.spec.as_ref().expect("a spec").containers[0];
    for (swap, expected) in [(Some(node), Some("268435456")), (Some(NodeSwap::default()), Some("0")), (None, None)] {
        let resources = resources(&burstable, container, &Settings { swap, ..settings() });
        assert_eq!(resources.unified.get("memory.swap.max").map(String::as_str), expected);
        assert_eq!(resources.memory_swap_limit_in_bytes, 0, "it has no limit of memory");
    }
}

#[test]
fn the_containers_user_goes_before_the_pods_and_a_group_brings_the_images_user() {
    let value = |int: Option<v1::Int64Value>| int.map(|int| int.value);
    let pods = json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2}});
    let of_image = ImageUser { uid: Some(7), name: String::new() };
    let named = ImageUser { uid: None, name: "www".into() };
    type User<'a> = (Option<i64>, &'a str, Option<i64>);
    let table: [(Value, Value, &ImageUser, User<'_>); 5] = [
        (json!({}), json!({}), &of_image, (None, "", None)),
        (json!({"runAsUser": 5}), pods.clone(), &of_image, (Some(5), "", Some(2))),
        (json!({}), pods, &of_image, (Some(1), "", Some(2))),
        (json!({"runAsGroup": 3}), json!({}), &of_image, (Some(7), "", Some(3))),
        (json!({"runAsGroup": 3}), json!({}), &named, (None, "www", Some(3))),
    ];
    for (own, spec, image_user, want) in table {
        let context = security(own.clone(), spec, image_user);
        let found = (value(context.run_as_user), &*context.run_as_username, value(context.run_as_group));
        assert_eq!(found, want, "{own}");
    }
}

#[test]
fn confinement_is_the_default_and_privilege_lifts_it() {
    let runtime_default = v1::security_profile::ProfileType::RuntimeDefault as i32;
    let plain = security(json!({}), json!({}), &ImageUser::default());
    assert!(!plain.privileged && !plain.no_new_privs && !plain.readonly_rootfs);
    assert!(plain.masked_paths.iter().any(|path| path == "/proc/interrupts"));
    assert!(plain.readonly_paths.iter().any(|path| path == "/proc/sys"));
    assert_eq!(plain.seccomp.map(|profile| profile.profile_type), Some(runtime_default));

    let strict = security(
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}),
        json!({}),
        &ImageUser::default(),
    );
    assert!(strict.no_new_privs && strict.readonly_rootfs);
    assert_eq!(strict.capabilities.map(|c| c.drop_capabilities), Some(vec!["ALL".to_owned()]));

    let privileged = security(json!({"privileged": true}), json!({}), &ImageUser::default());
    assert!(privileged.privileged && privileged.masked_paths.is_empty() && privileged.readonly_paths.is_empty());
}

#[test]
fn who_must_not_be_root_is_not_made_as_root_or_as_somebody_unknown() {
    const OF: &str = "(pod: \"p_n(u)\", container: c)";
    let number = |uid| ImageUser { uid: Some(uid), name: String::new() };
    let named = ImageUser { uid: None, name: "www".into() };
    let set = json!({"runAsNonRoot": true});
    let unknown =
        format!("container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root {OF}");
    let root = format!("container has runAsNonRoot and image will run as root {OF}");
    // Of the container, of the pod, the image's user, and the objection.
    let table = [
        (set.clone(), json!({}), number(0), Some(root.clone())),
        (set.clone(), json!({}), ImageUser::default(), Some(root.clone())),
        (set.clone(), json!({}), number(7), None),
        (set.clone(), json!({}), named.clone(), Some(unknown)),
        (json!({}), set.clone(), number(0), Some(root)),
        (json!({"runAsNonRoot": false}), set.clone(), number(0), None),
        (json!({"runAsUser": 5}), set.clone(), named.clone(), None),
        (
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            json!({}),
            number(7),
            Some(format!("container's runAsUser breaks non-root policy {OF}")),
        ),
    ];
    for (own, pods, image_user, want) in table {
        let pod = pod(json!({"securityContext": own}), json!({"securityContext": pods}));
        let failure = try_configured(&pod, &image_user).err();
        let reason = failure.as_ref().map(|failure| failure.reason.as_str());
        assert_eq!(reason, want.as_ref().map(|_| "CreateContainerConfigError"), "{own}");
        assert_eq!(failure.map(|failure| failure.message), want);
    }
    let asks = |context: Value| {
        let pod = pod(json!({"securityContext": context}), json!({}));
        security::needs_image_user(&pod, &pod.spec.as_ref().expect("a spec").containers[0])
    };
    assert!(asks(set) && !asks(json!({"runAsNonRoot": true, "runAsUser": 1})) && !asks(json!({})));
}

#[test]
fn the_containers_profile_goes_before_the_pods_and_that_before_the_nodes() {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
    let file = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}});
    let table = [
        (json!({}), json!({}), (RuntimeDefault, "")),
        (json!({"privileged": true}), json!({}), (Unconfined, "")),
        (json!({}), profile("Unconfined"), (Unconfined, "")),
        (profile("RuntimeDefault"), profile("Unconfined"), (RuntimeDefault, "")),
        (file.clone(), profile("Unconfined"), (Localhost, "/profiles/a/b.json")),
        (json!({}), file, (Localhost, "/profiles/a/b.json")),
    ];
    for (own, pods, (kind, path)) in table {
        let context = security(own.clone(), json!({"securityContext": pods}), &ImageUser::default());
        let found = context.seccomp.expect("a profile");
        assert_eq!((found.profile_type, &*found.localhost_ref), (kind as i32, path), "{own}");
    }
}

#[test]
fn groups_come_from_the_pod() {
    let spec =
        json!({"securityContext": {"supplementalGroups": [7, 8], "fsGroup": 6, "supplementalGroupsPolicy": "Strict"}});
    let context = security(json!({}), spec, &ImageUser::default());
    assert_eq!(context.supplemental_groups, [6, 7, 8]);
    assert_eq!(context.supplemental_groups_policy, v1::SupplementalGroupsPolicy::Strict as i32);
    let plain = security(json!({}), json!({}), &ImageUser::default());
    assert_eq!(plain.supplemental_groups_policy, v1::SupplementalGroupsPolicy::Merge as i32);
}

#[test]
fn namespaces_follow_the_spec() {
    use v1::NamespaceMode::{Container, Node, Pod};
    let table = [
        (json!({}), (Pod, Container, Pod)),
        (json!({"shareProcessNamespace": true}), (Pod, Pod, Pod)),
        (json!({"hostNetwork": true}), (Node, Container, Pod)),
        (json!({"hostPID": true}), (Pod, Node, Pod)),
        (json!({"hostIPC": true}), (Pod, Container, Node)),
    ];
    for (spec, (network, pid, ipc)) in table {
        let options = security(json!({}), spec.clone(), &ImageUser::default()).namespace_options.expect("options");
        assert_eq!((options.network, options.pid, options.ipc), (network as i32, pid as i32, ipc as i32), "{spec}");
        assert_eq!(options.userns_options.map(|users| users.mode), Some(Node as i32), "{spec}");
    }
}

#[test]
fn ids_of_the_pods_own_are_those_of_sandbox_container_and_volumes() {
    let ids = vec![v1::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 }];
    let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod as i32, uids: ids.clone(), gids: ids.clone() };
    let pod = pod(json!({}), json!({"hostUsers": false}));
    let prepared = Prepared { users: Some(users.clone()), ..Prepared::default() };
    let linux = sandbox::config(&pod, 0, &prepared, &settings()).linux.expect("linux");
    let options = linux.security_context.and_then(|context| context.namespace_options).expect("options");
    assert_eq!(options.userns_options, Some(users.clone()));

    let mut mounts = vec![v1::Mount { host_path: "/b".into(), ..Default::default() }, v1::Mount::default()];
    mounts[1].image = Some(v1::ImageSpec::default());
    security::map_ids(&mut mounts, Some(&users));
    assert_eq!((&mounts[0].uid_mappings, &mounts[0].gid_mappings), (&ids, &ids));
    assert!(mounts[1].uid_mappings.is_empty(), "an image's content is the runtime's to map");
}

#[test]
fn a_sandbox_has_the_pods_name_ports_and_labels() {
    let ports = json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}, {"containerPort": 81},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]);
    let mut pod = pod(json!({"ports": ports}), json!({}));
    pod.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
    let prepared = Prepared { cgroup_parent: "/kubepods/podu".into(), hostname: "h".into(), ..Prepared::default() };
    let config = sandbox::config(&pod, 3, &prepared, &settings());
    assert_eq!(config.hostname, "h");
    assert_eq!(config.log_directory, "/var/log/pods/n_p_u");
    assert_eq!(config.metadata.map(|m| m.attempt), Some(3));
    assert_eq!((&*config.labels["app"], &*config.labels["io.kubernetes.pod.name"]), ("x", "p"));
    let ports: Vec<_> =
        config.port_mappings.iter().map(|p| (p.container_port, p.host_port, p.protocol, &*p.host_ip)).collect();
    assert_eq!(ports, [(80, 8080, 0, "127.0.0.1"), (53, 53, 1, "")]);
    let linux = config.linux.expect("linux");
    assert_eq!(linux.cgroup_parent, "/kubepods/podu");
}
