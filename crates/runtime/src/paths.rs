//! Where everything lies: one place that knows the layout of the root and the run directory.
//!
//! ```text
//! <root>/sandboxes/<id>.jsonl                      record
//! <root>/sandboxes/<id>/{hosts,hostname,resolv.conf}
//! <root>/containers/<id>.jsonl                     record
//! <root>/containers/<id>/{upper,work}              writable layer
//! <root>/containers/<id>/{config.json,rootfs}      bundle, for hooks to find and for other OCI runtimes
//! <root>/containers/<id>/mounts                    where what a bundle's mounts show is found, in the program's namespace
//! <root>/containers/<id>/checkpoint/               what a checkpoint is made of, while it is
//! <root>/cni/<sandbox>.json                        what CNI plugins made
//! <root>/images/                                   the image store
//! <run>/shims/<sandbox>.sock, <sandbox>.json       what a boot invalidates
//! <run>/netns/<sandbox>                            the namespace of a pod that CNI plugins wired
//! <run>/shm/<sandbox>                              the pod's shared memory, a tmpfs
//! <run>/oci/<handler>/<container>                  what another OCI runtime keeps of its containers
//! <run>/io/<container or exec>*                    what its program and podd tell each other: terminals, pids, logs
//! ```

use std::path::{Path, PathBuf};

/// The directories of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    run: PathBuf,
}

/// The files of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct SandboxPaths {
    /// What outlives a boot.
    pub(crate) directory: PathBuf,
    shm: PathBuf,
}

/// The files of one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerPaths {
    pub(crate) directory: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path, run: &Path) -> Self {
        Self { root: root.to_owned(), run: run.to_owned() }
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn shims(&self) -> PathBuf {
        self.run.join("shims")
    }

    pub(crate) fn shms(&self) -> PathBuf {
        self.run.join("shm")
    }

    /// Where another OCI runtime keeps what it knows.
    pub(crate) fn oci(&self, handler: &str) -> PathBuf {
        self.run.join("oci").join(handler)
    }

    /// Here and not with the container: a socket's path has to be short.
    pub(crate) fn io(&self) -> PathBuf {
        self.run.join("io")
    }

    pub(crate) fn sandbox(&self, id: &str) -> SandboxPaths {
        SandboxPaths { directory: self.sandboxes().join(id), shm: self.shms().join(id) }
    }

    pub(crate) fn container(&self, id: &str) -> ContainerPaths {
        ContainerPaths { directory: self.containers().join(id) }
    }
}

impl SandboxPaths {
    pub(crate) fn hosts(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    pub(crate) fn hostname(&self) -> PathBuf {
        self.directory.join("hostname")
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }

    /// Where the pod's shared memory is mounted on the host.
    pub(crate) fn shm(&self) -> PathBuf {
        self.shm.clone()
    }
}

impl ContainerPaths {
    pub(crate) fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Where a checkpoint is put together.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.directory.join("checkpoint")
    }

    /// What is shown of host and images, for another OCI runtime, in the mount namespace of its program.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.directory.join("mounts")
    }

    /// Where hooks find the root, in the container's mount namespace.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }
}
