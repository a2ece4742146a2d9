//! One agent per state directory.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

/// Held as long as the process lives; the kernel gives it back when it dies.
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Takes the lock of a directory, which is made when it is missing.
    pub(crate) fn take(root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        let path = root.join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.with_context(|| format!("open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            file.read_to_string(&mut holder).with_context(|| format!("read {}", path.display()))?;
            bail!(
                "{} is in use by process {}; `podd agent stop` ends it, --instance or --root chooses another node",
                root.display(),
                holder.trim()
            );
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).context("write the lock")?;
        Ok(Self(file))
    }

    /// Whether somebody holds the lock of a directory.
    pub(crate) fn is_held(root: &Path) -> bool {
        let Ok(file) = File::open(root.join("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_has_it() {
        let root = std::env::temp_dir().join(format!("podd-lock-{}", std::process::id()));
        let lock = Lock::take(&root).unwrap();
        let refused = Lock::take(&root).map(drop).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(Lock::is_held(&root));
        drop(lock);
        assert!(!Lock::is_held(&root));
        assert!(Lock::take(&root).is_ok());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
