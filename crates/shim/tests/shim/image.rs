//! A root file system: Debian's static busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const APPLETS: [&str; 22] = [
    "sh", "cat", "chmod", "dd", "echo", "env", "grep", "head", "hostname", "id", "ln", "ls", "mkdir", "pwd",
    "readlink", "seq", "sleep", "stat", "stty", "tail", "touch", "true",
];

/// Makes one layer at `path`.
pub(crate) fn make(path: &Path) {
    for directory in ["bin", "etc", "root"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("bin/busybox")).expect("the package busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", path.join("bin").join(applet)).unwrap();
    }
    fs::write(path.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n").unwrap();
    fs::write(path.join("etc/group"), "root:x:0:\nwww:x:34:\nadm:x:4:web\n").unwrap();
    fs::write(path.join("bin/not-a-program"), "").unwrap();
}
