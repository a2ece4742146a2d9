//! What another OCI runtime's program is run for in a container's life ([`crate::external`]).

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use podd_cgroup::Limits;
use podd_shim::wire::{ContainerSpec, Created, External, Mounted, Request, ResolvedUser, Response, Rootfs};

use super::Container;
use super::create::{cgroup_of, prepare_directories, refused_limit};
use super::plan::Plan;
use super::remove::remove_directory;
use crate::engine::{Engine, blocking};
use crate::error::{Context, CriError, Result};
use crate::external::{self, Commands, Files, Program, config};
use crate::sandbox::{Sandbox, Shim};
use crate::seccomp::{self, Conditions};
use crate::shim::unexpected;

impl Engine {
    /// The program that makes a sandbox's containers; none for podd's own.
    pub(super) fn external_of(&self, sandbox: &Sandbox) -> Result<Option<Program>> {
        external::find(&self.config.handlers, &sandbox.meta.runtime_handler)
    }

    /// Makes a container whose meta names a program.
    pub(super) async fn make_elsewhere(
        self: &Arc<Self>,
        container: &Container,
        shim: &Shim,
        plan: Plan,
        limits: Limits,
    ) -> Result<Created> {
        let program = container.meta.external.as_ref().expect("the caller has looked");
        external::verify_shim(program, shim.client.version())?;
        let group = self.cgroups.group(&container.meta.cgroup).context(|| "name the container's cgroup")?;
        let paths = self.paths.container(container.id());
        let commands = Commands::new(program, &self.paths, container.id());
        let other = External {
            create: commands.create(&paths, plan.spec.tty),
            start: commands.start(),
            mounts: paths.mounts(),
        };
        let readonly = plan.spec.rootfs.readonly;
        // Mount points are the program's to make, before it makes the root read-only.
        let rootfs = Rootfs { readonly: false, mount_point: Some(paths.rootfs()), ..plan.spec.rootfs.clone() };
        let spec = ContainerSpec { rootfs, external: Some(Box::new(other)), ..plan.spec.clone() };
        let (state, sources, wanted) = (commands.state(), plan.sources, limits.clone());
        let spec = blocking(move || -> Result<ContainerSpec> {
            prepare_directories(&paths, &sources, &spec)?;
            for directory in [paths.rootfs(), paths.mounts(), state] {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
                made.context(|| format!("make {}", directory.display()))?;
            }
            group.create(&wanted).map_err(refused_limit)?;
            Ok(ContainerSpec { cgroup: cgroup_of(&group), ..spec })
        })
        .await?;
        let seccomp = filter(&spec, plan.seccomp.as_ref())?;
        let mounted = match shim.client.call(Request::Create(Box::new(spec.clone()))).await? {
            Response::Mounted(mounted) => mounted,
            other => return Err(unexpected(&other)),
        };
        self.write_config(container, &spec, &mounted, readonly, &limits, seccomp).await?;
        let _nobody_removes_any = self.groups_beside.read().await;
        match shim.client.call(Request::Proceed { id: container.id().to_owned() }).await? {
            Response::Created(created) => Ok(created),
            other => Err(unexpected(&other)),
        }
    }

    async fn write_config(
        &self,
        container: &Container,
        spec: &ContainerSpec,
        mounted: &Mounted,
        readonly: bool,
        limits: &Limits,
        seccomp: Option<serde_json::Value>,
    ) -> Result<()> {
        let paths = self.paths.container(container.id());
        let meta = &container.meta;
        let annotations = super::plan::hook_annotations(&container.sandbox.meta.annotations, &meta.annotations);
        let text = config::config(&config::Container {
            spec,
            mounted,
            root: &paths.rootfs(),
            mounts: &paths.mounts(),
            readonly,
            hooks: &meta.hooks,
            annotations: &annotations,
            cgroup: &meta.cgroup,
            limits,
            seccomp,
        });
        let path = paths.directory.join("config.json");
        blocking(move || write(&path, &text)).await
    }

    /// Writes down what an exec in such a container is to run.
    pub(crate) async fn write_process(
        &self,
        container: &Container,
        files: &Files,
        process: &podd_shim::wire::Process,
        tty: bool,
    ) -> Result<()> {
        let user = container.status().user.unwrap_or_default();
        let user = ResolvedUser { uid: user.uid, gid: user.gid, groups: user.groups };
        let mut text = config::process(process, &user, None);
        text["terminal"] = tty.into();
        let path = files.process.clone();
        blocking(move || write(&path, &text)).await
    }

    /// Has the program forget a container that has ended, or could not be made. What fails is told, and podd takes away
    /// itself what it can.
    pub(super) async fn delete_elsewhere(&self, container: &Container, program: &Program) {
        let commands = Commands::new(program, &self.paths, container.id());
        if let Err(why) = commands.delete(&self.paths.container(container.id()).directory).await {
            let program = program.path.display();
            tracing::warn!(container = container.id(), %program, why, "a runtime's program could not delete a container");
        }
        let (state, files) = (commands.state().join(container.id()), Files::of(&self.paths, container.id()));
        let removed = blocking(move || {
            files.remove();
            remove_directory(&state)
        })
        .await;
        if let Err(error) = removed {
            tracing::warn!(container = container.id(), %error, "remove what a runtime's program kept of a container");
        }
    }
}

/// The system call filter in the words of the specification.
fn filter(spec: &ContainerSpec, profile: Option<&seccomp::Profile>) -> Result<Option<serde_json::Value>> {
    use podd_shim::wire::Seccomp;
    let capabilities = spec.process.capabilities.bounding;
    match (&spec.process.seccomp, profile) {
        (Seccomp::Unconfined, _) => Ok(None),
        (Seccomp::RuntimeDefault, _) => Ok(Some(seccomp::told_default(capabilities))),
        (Seccomp::Filter { .. }, Some(profile)) => {
            let release = rustix::system::uname().release().to_string_lossy().into_owned();
            let kernel = seccomp::version(&release).unwrap_or_default();
            profile.told(&Conditions { capabilities, kernel }).map(Some).map_err(CriError::invalid)
        }
        (Seccomp::Filter { .. }, None) => Err(CriError::invalid("the seccomp profile was not read")),
    }
}

fn write(path: &Path, text: &serde_json::Value) -> Result<()> {
    fs::write(path, text.to_string()).context(|| format!("write {}", path.display()))
}
