//! Boots the guest, lets it run jobs, and reads how they ended.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::initramfs::Initramfs;
use crate::kernel::Kernel;

/// A guest with the processor emulated is some ten times slower than the machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// What is looked at again and again while the guest runs.
const GLANCE: Duration = Duration::from_millis(50);
const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "qemu-system-x86_64";

/// A machine that is not switched on yet.
pub(crate) struct Guest {
    files: Initramfs,
    jobs: usize,
    modules: Vec<&'static str>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// As of the shell: 137 is SIGKILL, which is also what a job gets that takes too long.
    pub(crate) status: i32,
    pub(crate) output: String,
}

impl Guest {
    pub(crate) fn new() -> Result<Guest> {
        let needed = [(QEMU, "qemu-system-x86"), (BUSYBOX, "busybox-static")];
        for (program, package) in needed {
            let there = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
            ensure!(there.is_ok(), "{program} is missing: apt-get install {package} (all: tests/packages.txt)");
        }
        let mut files = Initramfs::default();
        for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/var", "/root", "/etc", "/bin", "/modules"] {
            files.directory(directory);
        }
        files.file(BUSYBOX, 0o755, &fs::read(BUSYBOX).context("read busybox")?);
        files.file("/init", 0o755, include_bytes!("init.sh"));
        files.file("/jobs.sh", 0o755, include_bytes!("jobs.sh"));
        files.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        files.file("/etc/group", 0o644, b"root:x:0:\n");
        Ok(Guest { files, jobs: 0, modules: Vec::new() })
    }

    pub(crate) fn files(&mut self) -> &mut Initramfs {
        &mut self.files
    }

    /// Makes the machine's systemd the guest's first process.
    pub(crate) fn systemd(&mut self) -> Result<()> {
        for program in ["/lib/systemd/systemd", "/bin/systemctl", "/bin/busctl", "/bin/dbus-daemon"] {
            ensure!(Path::new(program).exists(), "{program} is missing: apt-get install systemd dbus");
            self.files.program(Path::new(program), program)?;
        }
        for (name, unit) in [
            ("jobs.service", &include_bytes!("jobs.service")[..]),
            ("dbus.service", include_bytes!("dbus.service")),
            ("dbus.socket", include_bytes!("dbus.socket")),
        ] {
            self.files.file(format!("/etc/systemd/system/{name}"), 0o644, unit);
        }
        self.files.file("/etc/bus.conf", 0o644, include_bytes!("bus.conf"));
        self.files.file("/etc/os-release", 0o644, b"ID=guest\n");
        Ok(())
    }

    /// A kernel module, if the kernel has it not built in.
    pub(crate) fn module(&mut self, name: &'static str) {
        self.modules.push(name);
    }

    /// A shell script to run after those before it.
    pub(crate) fn job(&mut self, name: &str, script: &str) {
        self.files.file(format!("/jobs/{:02}-{name}", self.jobs), 0o755, script.as_bytes());
        self.jobs += 1;
    }

    /// Switches the machine on and waits until it is off.
    pub(crate) fn run(mut self) -> Result<Vec<Outcome>> {
        let kernel = Kernel::find()?;
        let mut order = String::new();
        for path in kernel.modules(&self.modules)? {
            let name = path.file_name().and_then(|name| name.to_str()).context("a module's name")?.to_owned();
            self.files.file(format!("/modules/{name}"), 0o644, &fs::read(&path)?);
            order += &format!("{name}\n");
        }
        self.files.file("/modules/order", 0o644, order.as_bytes());
        let place = tempfile::tempdir()?;
        let (archive, console, results) =
            (place.path().join("initramfs"), place.path().join("console"), place.path().join("results"));
        fs::write(&archive, self.files.finish())?;
        let mut qemu = Off(start(&kernel.image, &archive, &console, &results)?);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = qemu.0.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(GLANCE);
        };
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let (console, results) = (read(&console), read(&results));
        let outcomes = outcomes(&results);
        let whole = status.is_some_and(|status| status.success()) && outcomes.len() == self.jobs;
        if !whole {
            bail!("the guest did not finish ({status:?})\nconsole:\n{console}\nresults:\n{results}");
        }
        Ok(outcomes)
    }
}

fn start(kernel: &Path, initramfs: &Path, console: &Path, results: &Path) -> Result<Child> {
    let serial = |path: &Path| format!("file:{}", path.display());
    // Emulated everywhere: KVM is missing or half there inside many virtual machines, and QEMU aborts on the latter.
    // The kernel panics when /init ends, and a panic or a reboot ends QEMU.
    Command::new(QEMU)
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(serial(console))
        .arg("-serial")
        .arg(serial(results))
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 loglevel=4 panic=-1 cgroup_no_v1=all"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start qemu")
}

/// A machine that is switched off at the end, whatever happened.
struct Off(Child);

impl Drop for Off {
    fn drop(&mut self) {
        // It may be off already, which is as good.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn outcomes(results: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut output = String::new();
    for line in results.lines() {
        if line.starts_with("@guest begin ") {
            output.clear();
        } else if let Some((name, status)) = line.strip_prefix("@guest end ").and_then(|end| end.rsplit_once(' ')) {
            let status = status.trim().parse().unwrap_or(-1);
            outcomes.push(Outcome { name: name.to_owned(), status, output: std::mem::take(&mut output) });
        } else {
            output += &format!("{line}\n");
        }
    }
    outcomes
}
