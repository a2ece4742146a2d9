//! Host devices for a container: looked up here, since their numbers are the host's to know.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use podd_cgroup::{DeviceKind, DeviceRule};
use podd_cri::v1::Device as CriDevice;
use podd_shim::wire::{Device, DeviceKind as WireKind};
use rustix::fs::{major, minor};

use crate::error::{Context, CriError, Result};

/// How many nodes one directory given as a device, or the host's /dev, may hold.
const MOST: usize = 4096;
/// What of /dev a container has of its own.
const OWN: [&str; 5] = ["/dev/pts", "/dev/ptmx", "/dev/shm", "/dev/mqueue", "/dev/fd"];

/// The nodes to make and what the cgroup must allow for them.
pub(super) fn resolve(devices: &[CriDevice]) -> Result<(Vec<Device>, Vec<DeviceRule>)> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    for device in devices {
        let wrong = device.permissions.chars().find(|letter| !"rwm".contains(*letter));
        if let Some(wrong) = wrong {
            return Err(CriError::invalid(format!("device {}: permission {wrong:?} is none of rwm", device.host_path)));
        }
        let inside = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        let before = nodes.len();
        collect(Path::new(&device.host_path), Path::new(inside), &mut nodes)
            .context(|| format!("look up device {}", device.host_path))?;
        if nodes.len() == before {
            return Err(CriError::invalid(format!("{} is not a device", device.host_path)));
        }
        rules.extend(nodes[before..].iter().map(|node| rule(node, &device.permissions)));
    }
    Ok((nodes, rules))
}

/// All devices of the host, for a privileged container.
pub(super) fn of_the_host() -> Result<Vec<Device>> {
    let mut nodes = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), &mut nodes).context(|| "list the devices of the host")?;
    Ok(nodes)
}

fn collect(host: &Path, inside: &Path, nodes: &mut Vec<Device>) -> std::io::Result<()> {
    let metadata = fs::metadata(host)?;
    if let Some(node) = node(&metadata, inside.to_owned()) {
        nodes.push(node);
    } else if metadata.is_dir() {
        for entry in fs::read_dir(host)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            let wanted = kind.is_dir() || kind.is_char_device() || kind.is_block_device();
            if wanted && !OWN.iter().any(|own| path == Path::new(own)) && nodes.len() < MOST {
                collect(&path, &inside.join(entry.file_name()), nodes)?;
            }
        }
    }
    Ok(())
}

fn node(metadata: &Metadata, path: PathBuf) -> Option<Device> {
    let kind = metadata.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => WireKind::Char,
        (_, true) => WireKind::Block,
        _ => return None,
    };
    let number = metadata.rdev();
    Some(Device {
        path,
        kind,
        major: major(number),
        minor: minor(number),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn rule(node: &Device, permissions: &str) -> DeviceRule {
    let has = |letter| permissions.is_empty() || permissions.contains(letter);
    DeviceRule {
        allow: true,
        kind: if node.kind == WireKind::Block { DeviceKind::Block } else { DeviceKind::Char },
        major: Some(node.major),
        minor: Some(node.minor),
        read: has('r'),
        write: has('w'),
        mknod: has('m'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str, inside: &str, permissions: &str) -> CriDevice {
        CriDevice { host_path: host.into(), container_path: inside.into(), permissions: permissions.into() }
    }

    #[test]
    fn a_device_keeps_its_numbers_under_its_new_name() {
        let (nodes, rules) = resolve(&[device("/dev/null", "/dev/nothing", "r")]).expect("resolve");
        assert_eq!((nodes[0].path.as_path(), nodes[0].major, nodes[0].minor), (Path::new("/dev/nothing"), 1, 3));
        assert_eq!((rules[0].read, rules[0].write, rules[0].mknod), (true, false, false));
    }

    #[test]
    fn a_directory_of_devices_comes_whole_under_its_new_name() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("deep")).expect("a directory");
        std::fs::write(directory.path().join("file"), "").expect("a file");
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        let block = rustix::fs::FileType::BlockDevice;
        for (name, number) in [("one", rustix::fs::makedev(7, 1)), ("deep/two", rustix::fs::makedev(7, 2))] {
            let path = directory.path().join(name);
            rustix::fs::mknodat(rustix::fs::CWD, &path, block, mode, number).expect("a node");
        }
        let host = directory.path().to_str().expect("a plain path");
        let (mut nodes, rules) = resolve(&[device(host, "/dev/mine", "rw")]).expect("resolve");
        nodes.sort_by(|a, b| a.path.cmp(&b.path));
        let seen: Vec<_> =
            nodes.iter().map(|node| (node.path.to_str().expect("plain"), node.minor, node.mode)).collect();
        assert_eq!(seen, [("/dev/mine/deep/two", 2, 0o640), ("/dev/mine/one", 1, 0o640)]);
        assert!(rules.iter().all(|rule| rule.kind == DeviceKind::Block && rule.write && !rule.mknod), "{rules:?}");
        assert_eq!(rules.len(), 2);
    }

    #[test]
    fn what_is_not_a_device_is_refused() {
        for (device, text) in [
            (device("/etc/passwd", "/dev/x", "rwm"), "/etc/passwd is not a device"),
            (device("/dev/does-not-exist", "/dev/x", "rwm"), "/dev/does-not-exist"),
            (device("/dev/null", "/dev/x", "rx"), "'x'"),
        ] {
            let error = resolve(&[device]).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_hosts_devices_leave_out_what_a_container_has_of_its_own() {
        let nodes = of_the_host().expect("list");
        assert!(nodes.iter().any(|node| node.path == Path::new("/dev/null")));
        assert!(!nodes.iter().any(|node| node.path.starts_with("/dev/pts")));
    }
}
