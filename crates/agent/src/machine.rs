//! What this machine is, read once at the start.

use std::{fs, io, path::Path};

use podd_core::eviction::Observed;

/// The machine under the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Processors that this process may use, in thousandths of a core.
    pub(crate) milli_cpu: i64,
    /// Memory in bytes.
    pub(crate) memory: i64,
    /// Swap in bytes.
    pub(crate) swap: i64,
    /// What the file system of the state holds, in bytes.
    pub(crate) storage: i64,
    /// `uname -r`.
    pub(crate) kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub(crate) os_image: String,
    /// `/etc/machine-id`.
    pub(crate) machine_id: String,
    /// Of this boot.
    pub(crate) boot_id: String,
}

/// Reads procfs and the files that every Linux has, and asks the file system of `root`.
pub(crate) fn read(root: &Path) -> io::Result<Machine> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let memory = total(&meminfo, "MemTotal:").ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))?;
    let cores = std::thread::available_parallelism()?.get();
    let uname = rustix::system::uname();
    Ok(Machine {
        milli_cpu: i64::try_from(cores).unwrap_or(1) * 1000,
        memory,
        swap: total(&meminfo, "SwapTotal:").unwrap_or_default(),
        storage: disk_size(root)?,
        kernel: uname.release().to_string_lossy().into_owned(),
        os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        machine_id: fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
    })
}

/// How much the file system of a directory holds, in bytes. A directory that is not there yet is as its parent.
fn disk_size(path: &Path) -> io::Result<i64> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    Ok(disk(there)?.0.capacity)
}

/// Bytes for everybody and inodes of a path's file system.
pub(crate) fn disk(path: &Path) -> io::Result<(Observed, Observed)> {
    let found = rustix::fs::statvfs(path)?;
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let bytes = |blocks: u64| number(blocks.saturating_mul(found.f_frsize));
    let space = Observed { available: bytes(found.f_bavail), capacity: bytes(found.f_blocks) };
    Ok((space, Observed { available: number(found.f_ffree), capacity: number(found.f_files) }))
}

/// Whether AppArmor may confine programs.
pub(crate) fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Bytes of a line of `/proc/meminfo`.
fn total(meminfo: &str, name: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_name_are_found() {
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(16_777_216));
        assert_eq!(total("MemFree: 1 kB\n", "MemTotal:"), None);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_image(""), "Linux");
    }
}
