//! The guest's kernel: Debian's, unpacked into the target directory. The machine's own `/boot` is never touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Debian's package that depends on the present kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// Paths of modules by their names, in which `-` and `_` are the same.
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// Downloads the kernel's package, the first time.
    pub(crate) fn find() -> Result<Kernel> {
        let unpacked = unpacked(&package()?)?;
        let image = first(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        let release = first(&unpacked.join("lib/modules"), |_| true)?;
        let mut modules = BTreeMap::new();
        find_modules(&release.join("kernel"), &mut modules)?;
        Ok(Kernel { image, modules })
    }

    /// The files of `wanted` modules and of what they depend on, in the order in which they must be inserted. A name
    /// that is no module is built in.
    pub(crate) fn modules(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in wanted {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(path) = self.modules.get(&name.replace('-', "_")) else {
            return Ok(());
        };
        if order.contains(path) {
            return Ok(());
        }
        for needed in dependencies(&fs::read(path)?) {
            self.add(&needed, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// The tree of one of Debian's packages, which is downloaded the first time, and not installed.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-kernel");
    fs::create_dir_all(&cache)?;
    // Tests are processes of their own, and only one may download.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    let unpacked = cache.join(package);
    if !unpacked.exists() {
        download(package, &cache, &unpacked)
            .with_context(|| format!("download and unpack {package}, which the guest needs"))?;
    }
    Ok(unpacked)
}

/// The package that [`PACKAGE`] stands for now.
fn package() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", "--important", PACKAGE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    found
        .filter(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("apt does not know {PACKAGE}, whose kernel the guest boots: run apt-get update"))
}

fn download(package: &str, cache: &Path, unpacked: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(cache)?;
    // root's downloads would otherwise be made by a user who may not write here, after a warning.
    let options = ["-q", "-o", "APT::Sandbox::User=root"];
    let output = Command::new("apt-get").args(options).args(["download", package]).current_dir(&work).output()?;
    ensure!(output.status.success(), "apt-get download: {}", String::from_utf8_lossy(&output.stderr));
    let file = first(work.path(), |name| name.ends_with(".deb"))?;
    let tree = work.path().join("tree");
    let output = Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree).output()?;
    ensure!(output.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(tree, unpacked)?;
    Ok(())
}

fn first(directory: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&fits) {
            return Ok(path);
        }
    }
    bail!("{} has not what it should", directory.display())
}

fn find_modules(directory: &Path, modules: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, modules)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
            modules.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

/// What a module's `.modinfo` says it depends on. depmod's table is made at installation, which there is none of.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
