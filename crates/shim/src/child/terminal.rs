//! A process's terminal, made in the container's own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use podd_shim::wire::{ShimErrorKind, WindowSize};
use podd_sys::mount::{attach, clone_tree};
use podd_sys::resolve::{Leaf, ensure_in_root, in_root};
use rustix::fs::{Mode, OFlags, fstatfs};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::fault::{Outcome, Stage, refuse};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both ends of a terminal.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Makes a terminal. The container may have put something else where `ptmx` is expected: it is opened without following
/// links and has to be devpts; the other end is taken from the master, not by a path.
pub(super) fn open(root: BorrowedFd<'_>, window: Option<WindowSize>) -> Outcome<Terminal> {
    let path = Path::new("/dev/pts/ptmx");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let master = in_root(root, path, flags, Mode::empty()).on("open terminal", path)?;
    if fstatfs(&master).on("inspect terminal", path)?.f_type != DEVPTS_SUPER_MAGIC {
        return Err(refuse(ShimErrorKind::Invalid, "open terminal", "/dev/pts of the container is not devpts"));
    }
    unlockpt(&master).stage("unlock terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).stage("open terminal")?;
    if let Some(window) = window {
        resize(master.as_fd(), window).stage("set terminal size")?;
    }
    Ok(Terminal { master, slave })
}

/// Changes a terminal's size.
pub(crate) fn resize(master: BorrowedFd<'_>, window: WindowSize) -> rustix::io::Result<()> {
    let WindowSize { rows, cols } = window;
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })
}

impl Terminal {
    /// Shows the terminal as `/dev/console`.
    pub(super) fn show_as_console(&self, root: BorrowedFd<'_>) -> Outcome<()> {
        let path = Path::new("/dev/console");
        let target = ensure_in_root(root, path, Leaf::File).on("make mount point", path)?;
        let tree = clone_tree(self.slave.as_fd(), Path::new(""), false).on("clone terminal", path)?;
        attach(tree.as_fd(), target.as_fd()).on("attach terminal", path)
    }

    /// Makes it this session's terminal and all three standard descriptors.
    pub(super) fn take(&self) -> Outcome<()> {
        rustix::process::ioctl_tiocsctty(&self.slave).stage("take terminal")?;
        for number in 0..=2 {
            podd_sys::exec::place(&self.slave, number).stage("place terminal")?;
        }
        Ok(())
    }
}
