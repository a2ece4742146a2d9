//! Every refusal names its field.

use podd_cri::v1::{ContainerMetadata, Device, DnsConfig, KeyValue, LinuxPodSandboxConfig, Mount, PodSandboxMetadata};

use super::*;

fn sandbox(change: impl FnOnce(&mut PodSandboxConfig)) -> Result<()> {
    let metadata = PodSandboxMetadata { name: "a".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
    let mut config = PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    change(&mut config);
    check_sandbox(&config)
}

fn container(change: impl FnOnce(&mut ContainerConfig)) -> Result<()> {
    let metadata = ContainerMetadata { name: "a".into(), attempt: 0 };
    let mut config = ContainerConfig { metadata: Some(metadata), ..Default::default() };
    change(&mut config);
    check_container(&config)
}

#[track_caller]
fn refused(outcome: Result<()>, beginning: &str) {
    let error = outcome.expect_err("refused");
    assert!(matches!(error, CriError::Invalid(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(beginning) && text.len() < 400, "{text}");
}

fn named(config: &mut PodSandboxConfig, change: impl FnOnce(&mut PodSandboxMetadata)) {
    change(config.metadata.get_or_insert_default());
}

#[test]
fn a_sandbox_is_refused_by_the_field_that_is_wrong() {
    assert!(sandbox(|_| ()).is_ok());
    refused(sandbox(|config| config.metadata = None), "config.metadata is missing");
    refused(sandbox(|config| named(config, |metadata| metadata.name.clear())), "metadata.name is empty");
    refused(sandbox(|config| named(config, |metadata| metadata.name = "a/b".into())), "metadata.name \"a/b\"");
    refused(sandbox(|config| named(config, |metadata| metadata.uid = "a\n".into())), "metadata.uid");
    let long = "x".repeat(100_000);
    refused(
        sandbox(|config| named(config, |metadata| metadata.namespace = long.clone())),
        "metadata.namespace has 100000",
    );
    refused(sandbox(|config| config.log_directory = format!("/{long}")), "log_directory has 100001");
    refused(sandbox(|config| config.log_directory = format!("/{}", &long[..256])), "log_directory: a part has 256");
    refused(sandbox(|config| config.log_directory = "/a\0b".into()), "log_directory \"/a\\0b\" contains a NUL");
    refused(sandbox(|config| config.labels = [(String::new(), "x".into())].into()), "labels has an empty key");
    let dns = |search: &str| DnsConfig { searches: vec![search.into()], ..Default::default() };
    refused(sandbox(|config| config.dns_config = Some(dns("a\nnameserver 6.6.6.6"))), "dns_config.searches");
    let parent = |path: &str| LinuxPodSandboxConfig { cgroup_parent: path.into(), ..Default::default() };
    refused(sandbox(|config| config.linux = Some(parent("/a\0"))), "linux.cgroup_parent");
}

#[test]
fn a_container_is_refused_by_the_field_that_is_wrong() {
    assert!(container(|_| ()).is_ok());
    let long = "x".repeat(200_000);
    refused(container(|config| config.metadata = None), "config.metadata is missing");
    refused(container(|config| config.metadata = Some(ContainerMetadata::default())), "metadata.name is empty");
    refused(container(|config| config.log_path = "a\0".into()), "log_path");
    refused(container(|config| config.working_dir = long.clone()), "working_dir");
    refused(container(|config| config.args = vec!["a\0".into()]), "args");
    refused(container(|config| config.command = vec![String::new(); 100_001]), "command has 100001 items");
    let env = KeyValue { key: "A".into(), value: long.clone().into() };
    refused(container(|config| config.envs = vec![env]), "envs has 200000 bytes");
    let mount = |mount: Mount| container(|config| config.mounts = vec![mount]);
    refused(mount(Mount { container_path: "/\0".into(), ..Default::default() }), "mounts.container_path");
    refused(mount(Mount { host_path: long.clone(), ..Default::default() }), "mounts.host_path");
    refused(mount(Mount { propagation: 77, ..Default::default() }), "mounts.propagation 77");
    let device = Device { host_path: "/dev/\0".into(), ..Default::default() };
    refused(container(|config| config.devices = vec![device]), "devices.host_path");
    refused(container(|config| config.stop_signal = 66), "stop_signal 66");
}

#[test]
fn a_hundred_thousand_labels_are_just_labels() {
    let labels: BTreeMap<_, _> = (0..100_000).map(|number| (format!("key-{number}"), "value".to_owned())).collect();
    assert!(sandbox(|config| config.labels = labels.clone()).is_ok());
    assert!(container(|config| config.labels = labels).is_ok());
}

#[test]
fn resources_are_refused_by_the_number_that_nothing_can_have() {
    let check = |change: &dyn Fn(&mut LinuxContainerResources)| {
        let mut resources = LinuxContainerResources::default();
        change(&mut resources);
        check_resources(&resources)
    };
    assert!(check(&|resources| (resources.cpu_quota, resources.memory_limit_in_bytes) = (-1, -1)).is_ok());
    refused(check(&|resources| resources.cpu_period = -1), "resources.cpu_period -1");
    refused(check(&|resources| resources.cpu_quota = -2), "resources.cpu_quota -2");
    refused(check(&|resources| resources.cpu_shares = i64::MIN), "resources.cpu_shares");
    refused(check(&|resources| resources.memory_limit_in_bytes = -7), "resources.memory_limit_in_bytes");
    refused(check(&|resources| resources.memory_swap_limit_in_bytes = -2), "resources.memory_swap");
    refused(check(&|resources| drop(resources.unified.insert("a\0".into(), "1".into()))), "resources.unified");
}

#[test]
fn no_time_is_negative() {
    assert_eq!(seconds("timeout", 3).ok(), Some(3));
    refused(seconds("timeout", -1).map(|_| ()), "timeout -1 must not be negative");
}
