//! A group: making it, limiting it, joining it, removing it. The same type serves QoS tiers, pods
//! and containers.
//!
//! Making is idempotent and removal is too, so one removal serves a failed creation, an ordinary
//! end and crash recovery alike.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bpf;
use crate::devices::{self, AllowList, DeviceRule};
use crate::error::{Error, Result};
use crate::hierarchy::{Controller, Hierarchy, Layout, Version};
use crate::limits::{self, Limits, Missing, Plan, Write};

/// A path in the hierarchy. Cheap to clone; holds no descriptor and does not need to exist.
#[derive(Debug, Clone)]
pub struct Group {
    hierarchy: Hierarchy,
    /// Relative to every mount, the hierarchy's root included.
    path: PathBuf,
}

impl Group {
    pub(crate) fn new(hierarchy: Hierarchy, path: PathBuf) -> Self {
        Self { hierarchy, path }
    }

    /// The path relative to the mounts: what `/proc/PID/cgroup` shows behind the slash.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel interface that this group is on.
    pub fn version(&self) -> Version {
        self.hierarchy.version()
    }

    /// A group beneath this one.
    pub fn child(&self, name: impl AsRef<Path>) -> Result<Group> {
        let name = crate::hierarchy::relative(name.as_ref())?;
        Ok(Group::new(self.hierarchy.clone(), self.path.join(name)))
    }

    /// Whether the group exists (v1: in every hierarchy).
    pub fn exists(&self) -> bool {
        self.dirs().iter().all(|dir| dir.is_dir())
    }

    /// Makes the group and whatever parents are missing, with all controllers on all the way down,
    /// and sets `limits`. An existing group is taken as it is. After an error, [`Group::remove`]
    /// clears what was made.
    ///
    /// Parents above the hierarchy's root are only touched where the kernel leaves no choice: a v2
    /// controller has to be enabled from the top down, a v1 cpuset filled likewise.
    pub fn create(&self, limits: &Limits) -> Result<()> {
        match &*self.hierarchy.layout {
            Layout::V1(mounts) => {
                for dir in self.dirs() {
                    make_dir(&dir)?;
                }
                if let Some(mount) = mounts.get(&Controller::Cpuset) {
                    fill_cpuset(mount, &self.path)?;
                }
            }
            Layout::V2(mount) => {
                make_dir(&mount.join(&self.path))?;
                enable_controllers(mount, &self.path)?;
            }
        }
        self.write_limits(limits, None)?;
        match &limits.devices {
            Some(rules) => self.restrict_devices(rules),
            None => Ok(()),
        }
    }

    /// Changes the limits that are given; the others and the devices stay.
    pub fn update(&self, limits: &Limits) -> Result<()> {
        let swap = match limits.memory_swap {
            Some(_) => self.read_number(Controller::Memory, "memory.memsw.limit_in_bytes"),
            None => None,
        };
        self.write_limits(limits, swap)
    }

    /// The files into which a single-threaded child writes `0` to join (v1: `tasks` of each
    /// hierarchy; v2: `cgroup.procs`).
    pub fn join_files(&self) -> Vec<PathBuf> {
        let name = match self.version() {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        self.dirs().into_iter().map(|dir| dir.join(name)).collect()
    }

    /// The directory to clone into with `CLONE_INTO_CGROUP`; `None` on v1.
    pub fn v2_dir(&self) -> Option<PathBuf> {
        match &*self.hierarchy.layout {
            Layout::V1(_) => None,
            Layout::V2(mount) => Some(mount.join(&self.path)),
        }
    }

    /// The file with a line `oom_kill N`: how many processes of this group and its children the
    /// kernel killed for want of memory.
    pub fn oom_counter(&self) -> PathBuf {
        let file = match self.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        self.dir(Controller::Memory).unwrap_or_else(|| self.path.clone()).join(file)
    }

    /// The number in [`Group::oom_counter`].
    pub fn oom_kills(&self) -> Result<u64> {
        let file = self.oom_counter();
        let text = fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e))?;
        let kills = text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok());
        Ok(kills.unwrap_or(0))
    }

    /// Removes the group and its own children, trying again until `patience` is over while exiting
    /// processes still hold it. A group that is gone already is a success.
    pub fn remove(&self, patience: Duration) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::InvalidPath(self.path.clone()));
        }
        let started = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            // Every hierarchy is tried in every round: one that is busy must not keep the others.
            let mut left = None;
            for dir in self.dirs() {
                left = remove_tree(&dir).err().or(left);
            }
            let Some(error) = left else { return Ok(()) };
            let waited = started.elapsed();
            match error {
                Error::Io { path, source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
                    if waited >= patience {
                        return Err(Error::Busy { path, waited_ms: waited.as_millis() as u64 });
                    }
                }
                other => return Err(other),
            }
            std::thread::sleep(pause.min(patience - waited));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the group where nothing is in it, neither a process nor a child; elsewhere it stays. The top of the
    /// hierarchy always stays.
    pub fn remove_if_empty(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        for dir in self.dirs() {
            match fs::remove_dir(&dir) {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {}
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(e) => return Err(Error::io("remove", &dir, e)),
            }
        }
        Ok(())
    }

    /// The group's directory in the hierarchy of `controller`.
    pub(crate) fn dir(&self, controller: Controller) -> Option<PathBuf> {
        match &*self.hierarchy.layout {
            Layout::V1(mounts) => mounts.get(&controller).map(|mount| mount.join(&self.path)),
            Layout::V2(mount) => Some(mount.join(&self.path)),
        }
    }

    /// The group's directories, each once (joint mounts carry several controllers).
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = match &*self.hierarchy.layout {
            Layout::V1(mounts) => mounts.values().map(|mount| mount.join(&self.path)).collect(),
            Layout::V2(mount) => vec![mount.join(&self.path)],
        };
        dirs.sort_unstable();
        dirs.dedup();
        dirs
    }

    fn write_limits(&self, limits: &Limits, present_swap: Option<u64>) -> Result<()> {
        let mut plan = limits::plan(limits, self.version())?;
        limits::order_memory(&mut plan, present_swap);
        self.apply(&plan)
    }

    fn apply(&self, plan: &Plan) -> Result<()> {
        let mut rejected = Vec::new();
        for write in plan {
            match self.write(write) {
                // v1 checks each file against the present value of its partner: a new quota can be
                // too much for the old period and the reverse. Once all is written, try again.
                Err(e) if is_invalid(&e) && write.file.starts_with("cpu.cfs_") => {
                    rejected.push(write);
                }
                other => other?,
            }
        }
        rejected.into_iter().try_for_each(|write| self.write(write))
    }

    fn write(&self, write: &Write) -> Result<()> {
        let Some(dir) = self.dir(write.controller) else {
            return match write.missing {
                Missing::Skip => Ok(()),
                Missing::Fail => Err(self.without(write.controller)),
            };
        };
        match write_file(&dir.join(&write.file), &write.value) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match (write.missing, dir.is_dir()) {
                    (Missing::Skip, true) => Ok(()),
                    (Missing::Fail, true) => Err(self.without(write.controller)),
                    (_, false) => Err(Error::io("open", dir, source)),
                }
            }
            other => other,
        }
    }

    fn without(&self, controller: Controller) -> Error {
        Error::NoController { controller: controller.name(), path: self.path.clone() }
    }

    fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        if self.version() == Version::V2 {
            return self.attach_device_program(rules);
        }
        let dir = self.dir(Controller::Devices).ok_or_else(|| self.without(Controller::Devices))?;
        let open = |file: &str| {
            let path = dir.join(file);
            let file = OpenOptions::new().write(true).open(&path);
            file.map_err(|e| Error::io("open", &path, e)).map(|file| (path, file))
        };
        let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
        for (denies, line) in devices::v1_lines(rules) {
            let (path, file) = if denies { &mut deny } else { &mut allow };
            file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &*path, e))?;
        }
        Ok(())
    }

    fn attach_device_program(&self, rules: &[DeviceRule]) -> Result<()> {
        let program: Vec<u64> = bpf::program(&AllowList::of(rules)).into_iter().map(bpf::Insn::encode).collect();
        let dir = self.v2_dir().ok_or_else(|| self.without(Controller::Devices))?;
        let opened = fs::File::open(&dir).map_err(|e| Error::io("open", &dir, e))?;
        let loaded =
            podd_sys::bpf::load_cgroup_device(&program).map_err(|e| Error::io("load the device filter of", &dir, e))?;
        podd_sys::bpf::attach_cgroup_device(loaded.as_fd(), opened.as_fd(), podd_sys::bpf::ALLOW_MULTI)
            .map_err(|e| Error::io("attach the device filter of", &dir, e))
    }

    fn read_number(&self, controller: Controller, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir(controller)?.join(file)).ok()?.trim().parse().ok()
    }
}

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput)
}

/// cgroup files take a value as one write; they are never created.
pub(crate) fn write_file(path: &Path, value: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(|e| Error::io("open", path, e))?;
    file.write_all(value.as_bytes()).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::ResourceBusy => {
            Error::io("write", path.with_added_extension(format!("={value}")), e)
        }
        _ => Error::io("write", path, e),
    })
}

/// One mkdir when the parent stands, which is the common case.
fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(dir).map_err(|e| Error::io("make", dir, e)),
        other => other.map_err(|e| Error::io("make", dir, e)),
    }
}

/// A v1 cpuset group starts out with no CPUs and no memory nodes, and takes no process until it
/// has some: each level gets its parent's where it has none.
fn fill_cpuset(mount: &Path, path: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(mount, path, file)?;
    }
    Ok(())
}

fn inherit(mount: &Path, path: &Path, file: &str) -> Result<String> {
    let full = mount.join(path).join(file);
    let own = fs::read_to_string(&full).map_err(|e| Error::io("read", &full, e))?;
    match path.parent() {
        Some(parent) if own.trim().is_empty() => {
            let value = inherit(mount, parent, file)?;
            write_file(&full, &value)?;
            Ok(value)
        }
        _ => Ok(own.trim().to_owned()),
    }
}

/// Turns on, in every ancestor's `cgroup.subtree_control`, those of our controllers that the
/// ancestor itself has. Only adds; what is on stays on.
fn enable_controllers(mount: &Path, path: &Path) -> Result<()> {
    let mut ancestors: Vec<_> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for ancestor in ancestors {
        let dir = mount.join(ancestor);
        let read = |file: &str| {
            let path = dir.join(file);
            fs::read_to_string(&path).map_err(|e| Error::io("read", path, e))
        };
        let has = read("cgroup.controllers")?;
        let on = read("cgroup.subtree_control")?;
        let line = missing_controllers(&has, &on);
        if !line.is_empty() {
            write_file(&dir.join("cgroup.subtree_control"), &line)?;
        }
    }
    Ok(())
}

/// The line that enables what is available, wanted and not yet on: "+cpu +memory".
fn missing_controllers(available: &str, enabled: &str) -> String {
    let listed = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    let names = Controller::ALL.into_iter().map(Controller::name);
    names
        .filter(|name| listed(available, name) && !listed(enabled, name))
        .map(|name| format!("+{name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Removes a directory of groups, the deepest first; what is gone is gone. A container may have
/// made groups of its own in there.
fn remove_tree(dir: &Path) -> Result<()> {
    let error = match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => e,
    };
    let busy = [io::ErrorKind::ResourceBusy, io::ErrorKind::DirectoryNotEmpty];
    if !busy.contains(&error.kind()) {
        return Err(Error::io("remove", dir, error));
    }
    let children = children(dir);
    if children.is_empty() {
        return Err(Error::io("remove", dir, error));
    }
    for child in children {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}

/// The groups directly beneath `dir`; none if it is gone.
pub(crate) fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
#[path = "group/tests.rs"]
mod tests;
