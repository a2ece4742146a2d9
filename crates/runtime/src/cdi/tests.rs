//! Files as vendors write them, and files that are wrong.

use std::fs;

use podd_cri::v1::CdiDevice;
use podd_shim::wire::{DeviceKind, MountKind};
use proptest::prelude::*;

use super::*;

const GPU: &str = "\
cdiVersion: 0.7.0
kind: vendor.com/gpu
containerEdits:
  env: [VENDOR=yes]
  hooks:
  - {hookName: createContainer, path: /usr/bin/vendor, args: [vendor, link], env: [A=b], timeout: 5}
devices:
- name: '0'
  containerEdits:
    env: [DEVICE=0]
    deviceNodes:
    - {path: /dev/gpu0, hostPath: /dev/null, permissions: rw, uid: 7}
    mounts:
    - {hostPath: /etc, containerPath: /gpu/etc, options: [ro, nosuid, rbind, rslave]}
    additionalGids: [0, 44]
- name: all
  containerEdits:
    deviceNodes: [{path: /dev/gpu-pipe, type: p}, {path: /dev/gpu-ctl, type: c, major: 195, minor: 255}]
";

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

struct Directories(tempfile::TempDir);

impl Directories {
    fn new() -> Self {
        let directories = Self(tempfile::tempdir().expect("a directory"));
        for path in directories.paths() {
            fs::create_dir(path).expect("a directory");
        }
        directories
    }

    fn paths(&self) -> Vec<PathBuf> {
        ["low", "high"].map(|name| self.0.path().join(name)).to_vec()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("a file");
    }

    fn resolve(&self, wanted: &[&str]) -> std::result::Result<Edits, String> {
        resolve(&self.paths(), &names(wanted)).map_err(|error| error.chain())
    }
}

#[test]
fn a_device_brings_its_edits_and_once_those_of_its_file() {
    let directories = Directories::new();
    directories.write("low/gpu.yaml", GPU);
    let edits = directories.resolve(&["vendor.com/gpu=0", "vendor.com/gpu=all"]).expect("resolve");
    assert_eq!(edits.env, ["VENDOR=yes", "DEVICE=0"]);
    assert_eq!(edits.additional_gids, [44]);
    let hook = &edits.hooks.create_container[..];
    assert_eq!((hook.len(), hook[0].path.as_path(), hook[0].timeout), (1, Path::new("/usr/bin/vendor"), Some(5)));
    let devices: Vec<_> =
        edits.devices.iter().map(|d| (d.path.to_str().expect("plain"), d.kind, d.major, d.minor, d.uid)).collect();
    assert_eq!(
        devices,
        [
            ("/dev/gpu0", DeviceKind::Char, 1, 3, 7),
            ("/dev/gpu-pipe", DeviceKind::Fifo, 0, 0, 0),
            ("/dev/gpu-ctl", DeviceKind::Char, 195, 255, 0)
        ]
    );
    assert_eq!(edits.rules.len(), 2);
    assert_eq!((edits.rules[0].read, edits.rules[0].write, edits.rules[0].mknod), (true, true, false));
    let mount = &edits.mounts[0];
    assert_eq!(mount.kind, MountKind::Bind { source: "/etc".into(), recursive: true });
    assert!(mount.readonly && mount.nosuid && !mount.nodev);
}

#[test]
fn json_is_read_too_and_other_files_are_not() {
    let directories = Directories::new();
    directories.write(
        "low/a.json",
        r#"{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{"name":"x","containerEdits":{"env":["A=1"]}}]}"#,
    );
    directories.write("low/b.yml", GPU);
    assert_eq!(directories.resolve(&["v.com/c=x"]).expect("resolve").env, ["A=1"]);
    let error = directories.resolve(&["vendor.com/gpu=0"]).expect_err("not read");
    assert_eq!(error, "unresolvable CDI devices vendor.com/gpu=0");
}

#[test]
fn a_later_directory_wins_and_two_in_one_are_a_conflict() {
    let directories = Directories::new();
    let device = |value: &str| {
        format!("cdiVersion: 0.5.0\nkind: v.com/c\ndevices: [{{name: x, containerEdits: {{env: [A={value}]}}}}]\n")
    };
    directories.write("low/a.yaml", &device("low"));
    directories.write("low/b.yaml", &device("low too"));
    let error = directories.resolve(&["v.com/c=x"]).expect_err("a conflict");
    assert!(error.contains("in conflict") && error.contains("a.yaml") && error.contains("b.yaml"), "{error}");
    directories.write("high/c.yaml", &device("high"));
    assert_eq!(directories.resolve(&["v.com/c=x"]).expect("resolve").env, ["A=high"]);
}

#[test]
fn a_broken_file_takes_only_itself_away_and_is_named() {
    let directories = Directories::new();
    directories.write("low/gpu.yaml", GPU);
    directories.write("low/broken.yaml", "cdiVersion: [");
    directories.resolve(&["vendor.com/gpu=all"]).expect("the other file");
    let error = directories.resolve(&["other.com/gpu=1"]).expect_err("unknown");
    assert!(error.starts_with("unresolvable CDI devices other.com/gpu=1; "), "{error}");
    assert!(error.contains("broken.yaml"), "{error}");
}

#[test]
fn what_the_specification_forbids_is_refused_by_its_name() {
    for (from, to, named) in [
        ("0.7.0", "3.0.0", "cdiVersion"),
        ("0.7.0", "0.3.0", "version 0.7.0"),
        ("vendor.com/gpu", "vendor.com", "vendor/class"),
        ("vendor.com/gpu", "0vendor/gpu", "\"0vendor\" must begin"),
        ("vendor.com/gpu", "vendor/g pu", "' '"),
        ("vendor.com/gpu", "vendor/gpu-", "must end"),
        ("name: all", "name: '0'", "twice"),
        ("name: all", "name: '-'", "must begin"),
        ("name: all", "name: a/b", "'/'"),
        ("name: all", "nome: all", "nome"),
        ("DEVICE=0", "DEVICE", "NAME=value"),
        ("permissions: rw", "permissions: rx", "'x'"),
        ("type: p", "type: s", "\"s\""),
        ("path: /dev/gpu0", "path: gpu0", "absolute"),
        ("createContainer", "afterLunch", "afterLunch"),
        ("path: /usr/bin/vendor", "path: vendor", "absolute"),
        ("rslave", "lazy", "lazy"),
        ("hostPath: /etc", "hostPath: etc", "absolute"),
        ("options: [ro", "type: nfs, options: [ro", "nfs"),
        ("additionalGids: [0, 44]", "intelRdt: {closID: x}", "intelRdt"),
        ("env: [VENDOR=yes]", "annotations: {}", "annotations"),
    ] {
        let text = GPU.replacen(from, to, 1);
        assert_ne!(text, GPU, "{from}");
        let why = spec::parse(Path::new("x.yaml"), text.as_bytes()).expect_err(to);
        assert!(why.contains(named), "{to}: {why}");
    }
    for empty in ["", "---\n", "cdiVersion: 0.5.0\nkind: a/b\ndevices: []\n"] {
        assert!(spec::parse(Path::new("x.yaml"), empty.as_bytes()).is_err(), "{empty:?}");
    }
}

#[test]
fn devices_are_asked_for_by_field_and_by_annotation_each_once() {
    let device = |name: &str| CdiDevice { name: name.into() };
    let cdi_devices = vec![device("v.com/c=a"), device("v.com/c=a")];
    let mut config = ContainerConfig { cdi_devices, ..ContainerConfig::default() };
    config.annotations.insert("cdi.k8s.io/plugin".into(), "v.com/c=b,v.com/c=a".into());
    config.annotations.insert("other".into(), "no".into());
    assert_eq!(wanted(&config).expect("names"), ["v.com/c=a", "v.com/c=b"]);
    for wrong in ["", "a", "v.com=x", "v.com/c", "v.com/c=", "/c=x", "v.com/=x", "v.com/c=x y"] {
        config.cdi_devices = vec![device(wrong)];
        let error = wanted(&config).expect_err(wrong).to_string();
        assert!(error.contains("CDI device"), "{error}");
    }
}

#[test]
fn a_device_node_that_the_host_lacks_is_said() {
    let directories = Directories::new();
    let text = GPU.replace("hostPath: /dev/null", "hostPath: /dev/none-such");
    directories.write("low/gpu.yaml", &text);
    let error = directories.resolve(&["vendor.com/gpu=0"]).expect_err("missing");
    assert!(error.contains("/dev/none-such") && error.contains("gpu.yaml"), "{error}");
}

proptest! {
    #[test]
    fn a_name_that_is_taken_is_whole_in_its_parts(name in "[a-zA0.-]{0,4}/[a-z_.=]{0,4}=[a0:/=]{0,4}") {
        if let Ok((vendor, class, device)) = spec::split_name(&name) {
            prop_assert_eq!(&format!("{vendor}/{class}={device}"), &name);
            prop_assert!(vendor.starts_with(|c: char| c.is_ascii_alphabetic()));
            prop_assert!(!device.contains(['/', '=']));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_and_never_more(at in 0..GPU.len(), length in 0..40usize, patch in ".{0,6}") {
        let end = (at + length).min(GPU.len());
        let text = format!("{}{patch}{}", &GPU[..at], &GPU[end..]);
        if let Ok(spec) = spec::parse(Path::new("x.yaml"), text.as_bytes()) {
            // What was taken keeps its promises.
            for device in &spec.devices {
                let name = format!("{}={}", spec.kind, device.name);
                prop_assert!(spec::split_name(&name).is_ok(), "{}", name);
                let mut edits = Edits::default();
                if device.edits.apply(&mut edits).is_ok() {
                    prop_assert!(edits.mounts.iter().all(|mount| mount.destination.is_absolute()));
                    prop_assert!(edits.devices.iter().all(|device| device.path.is_absolute()));
                    prop_assert!(edits.env.iter().all(|variable| variable.contains('=')));
                }
            }
        }
    }
}
