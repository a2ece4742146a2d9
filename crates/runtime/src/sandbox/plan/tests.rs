//! Tables over what a sandbox's configuration becomes, and over what is refused.

use podd_cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption, PodSandboxMetadata, PortMapping, UserNamespace,
};

use podd_cri::v1::NamespaceMode as Mode;

use super::*;

fn handlers() -> BTreeMap<String, Handler> {
    let program = Handler::Program("/sbin/other".into());
    BTreeMap::from([("runc".to_owned(), Handler::Embedded), ("other".to_owned(), program)])
}

fn config(
    change: impl FnOnce(&mut PodSandboxConfig, &mut LinuxPodSandboxConfig, &mut NamespaceOption),
) -> PodSandboxConfig {
    let mut config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "ns".into(), attempt: 1 }),
        hostname: "web".into(),
        log_directory: "/var/log/pods/ns_web_u".into(),
        ..Default::default()
    };
    let mut linux = LinuxPodSandboxConfig::default();
    let mut options = NamespaceOption::default();
    change(&mut config, &mut linux, &mut options);
    let security = linux.security_context.get_or_insert_with(LinuxSandboxSecurityContext::default);
    security.namespace_options = Some(options);
    config.linux = Some(linux);
    config
}

fn planned(config: &PodSandboxConfig) -> Result<SandboxMeta> {
    plan(
        &Context {
            id: "abc",
            now: 7,
            cgroup_root: Path::new("podd"),
            cgroup_driver: CgroupDriver::Cgroupfs,
            handlers: &handlers(),
        },
        config,
        "",
    )
}

#[test]
fn a_plain_sandbox_gets_a_group_of_its_own_and_the_pods_namespaces() {
    let meta = planned(&config(|_, _, _| {})).expect("plan");
    assert_eq!((meta.cgroup_parent, meta.owns_cgroup), (PathBuf::from("podd/abc"), true));
    assert_eq!(meta.namespaces, Namespaces::default());
    assert_eq!((meta.hostname.as_str(), meta.created_at, meta.owner.attempt), ("web", 7, 1));
}

#[test]
fn a_pod_in_the_hosts_network_has_neither_hostname_nor_ports() {
    let meta = planned(&config(|config, _, options| {
        options.network = Mode::Node as i32;
        config.port_mappings = vec![PortMapping { host_port: 80, container_port: 80, ..Default::default() }];
    }))
    .expect("plan");
    assert_eq!((meta.hostname.as_str(), meta.ports.len()), ("", 0));
}

#[test]
fn only_published_ports_are_kept() {
    let meta = planned(&config(|config, _, _| {
        config.port_mappings = vec![
            PortMapping { host_port: 0, container_port: 80, ..Default::default() },
            PortMapping { host_port: 8080, container_port: 80, protocol: 1, host_ip: "127.0.0.1".into() },
        ];
    }))
    .expect("plan");
    let expected = PortMeta {
        protocol: "udp".into(),
        container_port: 80,
        host_port: 8080,
        host_ip: Some("127.0.0.1".parse().expect("an address")),
    };
    assert_eq!(meta.ports, [expected]);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let sysctl = |name: &'static str| {
        move |linux: &mut LinuxPodSandboxConfig| drop(linux.sysctls.insert(name.to_owned(), "1".to_owned()))
    };
    let table: Vec<(PodSandboxConfig, &str)> = vec![
        (PodSandboxConfig::default(), "metadata is missing"),
        (config(|config, _, _| config.hostname = "a/b".into()), "hostname \"a/b\""),
        (config(|config, _, _| config.hostname = "a".repeat(65)), "hostname"),
        (config(|config, _, _| config.log_directory = "logs".into()), "log_directory"),
        (config(|config, _, _| config.log_directory = "/var/../etc".into()), "log_directory"),
        (config(|_, linux, _| linux.cgroup_parent = "/a/../../b".into()), "cgroup_parent"),
        (config(|_, linux, _| linux.cgroup_parent = "/".into()), "root group"),
        (config(|_, linux, _| linux.cgroup_parent = "kubepods.slice".into()), "systemd"),
        (config(|_, linux, _| sysctl("kernel.panic")(linux)), "kernel.panic"),
        (config(|_, linux, _| sysctl("net/../kernel/panic")(linux)), "net/../kernel/panic"),
        (config(|_, linux, _| sysctl("kernel.hostname")(linux)), "kernel.hostname"),
        (
            config(|_, linux, options| {
                options.network = Mode::Node as i32;
                sysctl("net.ipv4.ip_forward")(linux);
            }),
            "net.ipv4.ip_forward",
        ),
        (config(|_, _, options| options.network = Mode::Container as i32), "network"),
        (config(|_, _, options| options.ipc = Mode::Target as i32), "ipc"),
        (config(|_, _, options| options.pid = 9), "pid"),
        (
            config(|_, _, options| {
                options.userns_options = Some(UserNamespace { mode: Mode::Container as i32, ..Default::default() });
            }),
            "userns_options",
        ),
        (
            config(|config, _, _| {
                config.port_mappings = vec![PortMapping { host_port: 70_000, ..Default::default() }];
            }),
            "70000",
        ),
        (
            config(|config, _, _| {
                config.port_mappings = vec![PortMapping { host_port: 1, host_ip: "x".into(), ..Default::default() }];
            }),
            "host_ip",
        ),
    ];
    for (config, text) in table {
        let error = planned(&config).expect_err(text).to_string();
        assert!(error.contains(text), "{error:?} should mention {text:?}");
    }
    let error = plan(
        &Context {
            id: "a",
            now: 0,
            cgroup_root: Path::new("p"),
            cgroup_driver: CgroupDriver::Cgroupfs,
            handlers: &handlers(),
        },
        &config(|_, _, _| {}),
        "kata",
    );
    assert!(error.expect_err("refused").to_string().contains("kata"));
}

#[test]
fn sysctls_are_written_with_dots_or_slashes() {
    let table = [
        ("net.ipv4.ip_unprivileged_port_start", "net/ipv4/ip_unprivileged_port_start"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
    ];
    for (name, path) in table {
        let meta = planned(&config(|_, linux, _| drop(linux.sysctls.insert(name.into(), "1".into())))).expect(name);
        assert_eq!(meta.sysctls.keys().collect::<Vec<_>>(), [path]);
    }
}

#[test]
fn resolv_conf_is_the_callers_or_else_the_hosts() {
    let host = "nameserver 9.9.9.9\n";
    let dns = DnsConfig {
        servers: vec!["10.0.0.10".into(), "1.1.1.1".into()],
        searches: vec!["ns.svc".into(), "svc".into()],
        options: vec!["ndots:5".into()],
    };
    assert_eq!(resolv_conf(None, host), host);
    assert_eq!(resolv_conf(Some(&DnsConfig::default()), host), host);
    assert_eq!(
        resolv_conf(Some(&dns), host),
        "search ns.svc svc\noptions ndots:5\nnameserver 10.0.0.10\nnameserver 1.1.1.1\n"
    );
}

#[test]
fn hosts_names_the_pod_by_each_address() {
    let text = hosts("web", &["10.85.0.2".parse().expect("an address")]);
    assert!(text.starts_with("127.0.0.1\tlocalhost\n") && text.ends_with("10.85.0.2\tweb\n"), "{text}");
}

#[test]
fn with_systemd_a_pods_group_is_a_slice() {
    let context = Context {
        id: "abc",
        now: 7,
        cgroup_root: Path::new("/podd"),
        cgroup_driver: CgroupDriver::Systemd,
        handlers: &BTreeMap::new(),
    };
    let planned = |parent: &str| plan(&context, &config(|_, linux, _| linux.cgroup_parent = parent.into()), "");
    let kubelets = planned("kubepods-besteffort-pod1.slice").expect("a slice");
    let path = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
    assert_eq!((kubelets.cgroup_parent, kubelets.owns_cgroup), (PathBuf::from(path), false));
    let own = planned("").expect("one of our own");
    assert_eq!((own.cgroup_parent, own.owns_cgroup), (PathBuf::from("podd.slice/podd-podabc.slice"), true));
    assert!(planned("/kubepods/besteffort/pod1").is_err());
}

#[test]
fn another_runtime_makes_pods_of_the_hosts_users_in_plain_groups() {
    let planned = |driver, handler: &str, users: bool| {
        let handlers = handlers();
        let context =
            Context { id: "a", now: 0, cgroup_root: Path::new("/p"), cgroup_driver: driver, handlers: &handlers };
        let users = users.then(|| {
            let range = podd_cri::v1::IdMapping { host_id: 65536, container_id: 0, length: 65536 };
            UserNamespace { mode: Mode::Pod as i32, uids: vec![range], gids: vec![range] }
        });
        plan(&context, &config(|_, _, options| options.userns_options = users), handler)
    };
    for (driver, handler, users, refused) in [
        (CgroupDriver::Cgroupfs, "other", false, None),
        (CgroupDriver::Cgroupfs, "runc", true, None),
        (CgroupDriver::Cgroupfs, "other", true, Some("hostUsers")),
        (CgroupDriver::Systemd, "runc", false, None),
        (CgroupDriver::Systemd, "other", false, Some("systemd")),
    ] {
        match (planned(driver, handler, users), refused) {
            (Ok(meta), None) => assert_eq!(meta.runtime_handler, handler),
            (Err(CriError::Precondition(text)), Some(says)) => {
                assert!(text.contains(says) && text.contains(handler), "{text}");
            }
            (other, _) => panic!("{handler} with {driver:?}: {other:?}"),
        }
    }
}
