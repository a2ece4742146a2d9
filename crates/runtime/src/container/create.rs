//! CreateContainer: plan, record, then make. A failure goes through the same removal as any other end.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use podd_cgroup::{Group, Limits};
use podd_cri::v1::{ContainerConfig, ContainerEventType, Mount};
use podd_image::{Image, Lease};
use podd_nri::message::Event;
use podd_shim::wire::{CgroupSpec, ContainerSpec, Created, Request, Response};

use super::plan::{self, Plan, Source};
use super::{Container, devices, limits, propagation};
use crate::apparmor;
use crate::cdi;
use crate::clock::now;
use crate::engine::{Engine, blocking, new_id};
use crate::error::{Context, CriError, Result};
use crate::hooks;
use crate::paths::ContainerPaths;
use crate::records::{ContainerStatus, NamespaceMode, SandboxStage, Stage, User};
use crate::registry::Reservation;
use crate::request::check_container;
use crate::sandbox::{Sandbox, Shim};
use crate::seccomp;
use crate::shim::unexpected;

/// The image of each mount, for those that show one.
type Volumes = Vec<Option<Arc<Image>>>;

impl Engine {
    /// Makes a container up to the point of exec; answers its id.
    pub(crate) async fn create_container(self: Arc<Self>, sandbox: &str, config: ContainerConfig) -> Result<String> {
        check_container(&config)?;
        let _gate = self.enter_nri().await;
        let sandbox = self.registry.sandbox(sandbox)?;
        if sandbox.status().stage == SandboxStage::Creating {
            // Half made: its maker has the turn, and may still fail.
            return Err(CriError::Precondition(format!("sandbox {} is not ready", sandbox.id())));
        }
        let _ready = sandbox.turn.read().await;
        if sandbox.status().stage != SandboxStage::Ready {
            return Err(CriError::Precondition(format!("sandbox {} is not ready", sandbox.id())));
        }
        let shim = sandbox.shim()?;
        let (mut plan, leases) = self.plan_container(&sandbox, &config)?;
        // Before the plugins are asked: they need not hear of what cannot be.
        let name = self.registry.reserve_container(sandbox.id(), &plan.meta.owner, &plan.meta.id)?;
        self.adjust_plan(&sandbox, &mut plan).await?;
        let (container, plan, limits) = self.record_container(&sandbox, plan, leases, name)?;
        match self.make_container(&container, &shim, plan, limits).await {
            Ok(created) => {
                self.warnings.tell(container.id(), &created.warnings);
                let user = User { uid: created.user.uid, gid: created.user.gid, groups: created.user.groups };
                container.change(|status| {
                    if status.stage == Stage::Creating {
                        status.stage = Stage::Created;
                        status.pid = created.pid;
                    }
                    status.user = Some(user);
                })?;
                tracing::info!(container = container.id(), sandbox = sandbox.id(), "container created");
                self.announce_container(Event::PostCreateContainer, &container).await;
                self.announce(container.id(), &sandbox, ContainerEventType::ContainerCreatedEvent);
                Ok(container.id().to_owned())
            }
            Err(error) => {
                self.give_up_container(&container).await;
                // Plugins were asked about it; for them it ends here.
                self.announce_container(Event::RemoveContainer, &container).await;
                Err(error)
            }
        }
    }

    /// Plans the container, and takes hold of the images that it is made of; nothing else has happened then.
    fn plan_container(&self, sandbox: &Arc<Sandbox>, config: &ContainerConfig) -> Result<(Plan, Vec<Lease>)> {
        let external = self.external_of(sandbox)?;
        let profile = plan::apparmor_profile(config)?;
        profile.as_deref().map_or(Ok(()), apparmor::verify)?;
        let image = config.image.as_ref().map(|spec| spec.image.as_str()).unwrap_or_default();
        let (image, lease) = self.images.acquire(image).map_err(crate::images::refused)?;
        let (volumes, mut leases) = self.volumes(&config.mounts)?;
        leases.push(lease);
        let id = new_id();
        let privileged =
            config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()).is_some_and(|s| s.privileged);
        let (mut nodes, rules) = devices::resolve(&config.devices)?;
        if privileged {
            let named: Vec<_> = nodes.iter().map(|node| node.path.clone()).collect();
            nodes.extend(devices::of_the_host()?.into_iter().filter(|node| !named.contains(&node.path)));
        }
        let edits = cdi::resolve(&self.config.cdi_dirs, &cdi::wanted(config)?)?;
        let hook_files = hooks::directory::read(&self.config.hooks_dirs)?;
        let paths = self.paths.container(&id);
        let target = self.target_of(sandbox, config)?;
        let context = plan::Context {
            id: &id,
            now: now(),
            sandbox: &sandbox.meta,
            sandbox_paths: &self.paths.sandbox(sandbox.id()),
            paths: &paths,
            image: &image,
            bounding: self.bounding,
            devices: nodes,
            rules,
            volumes: &volumes,
            edits,
            hook_files: &hook_files,
            log_limits: self.config.log_limits,
            seccomp: plan::seccomp_file(config)?.map(|path| seccomp::read(&path)).transpose()?,
            apparmor: profile,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            target: target.as_ref().map(|target| target.id()),
            kernel: seccomp::version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default(),
        };
        let mut plan = plan::plan(context, config)?;
        plan.meta.external = external;
        Ok((plan, leases))
    }

    /// Writes the container's record; its name stays reserved from now on.
    fn record_container(
        &self,
        sandbox: &Arc<Sandbox>,
        plan: Plan,
        leases: Vec<Lease>,
        name: Reservation<'_>,
    ) -> Result<(Arc<Container>, Plan, Limits)> {
        let id = plan.meta.id.clone();
        let limits = limits::at_creation(&plan.resources, plan.rules.clone(), plan.privileged);
        let status = ContainerStatus {
            stage: Stage::Creating,
            removing: false,
            pid: 0,
            user: None,
            resources: plan.resources.clone(),
            poststop_due: plan.meta.external.is_some() || !plan.meta.hooks.poststop.is_empty(),
        };
        let record =
            self.container_records.create(&id, &plan.meta, &status).context(|| format!("record container {id}"))?;
        let container = Container::new(plan.meta.clone(), status, record, Arc::clone(sandbox), leases);
        let container = Arc::new(container);
        self.registry.add_container(Arc::clone(&container));
        name.keep();
        Ok((container, plan, limits))
    }

    /// The image of each mount that shows one, and the leases on their layers.
    fn volumes(&self, mounts: &[Mount]) -> Result<(Volumes, Vec<Lease>)> {
        let mut leases = Vec::new();
        let mut images = Vec::new();
        for mount in mounts {
            let Some(spec) = &mount.image else {
                images.push(None);
                continue;
            };
            if spec.image.is_empty() {
                return Err(CriError::invalid(format!("mount at {:?}: the image has no name", mount.container_path)));
            }
            let (image, lease) = self.images.acquire(&spec.image).map_err(crate::images::refused)?;
            images.push(Some(image));
            leases.push(lease);
        }
        Ok((images, leases))
    }

    /// The container whose processes a new one is to join: of the same sandbox, and running.
    fn target_of(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<Arc<Container>>> {
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) else { return Ok(None) };
        if NamespaceMode::from_cri(options.pid) != Some(NamespaceMode::Target) || options.target_id.is_empty() {
            return Ok(None);
        }
        let target = self.registry.container(&options.target_id)?;
        if target.sandbox.id() != sandbox.id() {
            return Err(CriError::invalid(format!("target_id {} is a container of another sandbox", target.id())));
        }
        if !target.is_running() {
            return Err(CriError::Precondition(format!("target container {} is not running", target.id())));
        }
        Ok(Some(target))
    }

    async fn make_container(
        self: &Arc<Self>,
        container: &Container,
        shim: &Shim,
        plan: Plan,
        limits: Limits,
    ) -> Result<Created> {
        let held = self.hold_scope(&container.meta.cgroup, &limits).await?;
        let made = self.make_in_group(container, shim, plan, limits).await;
        held.release().await;
        made
    }

    async fn make_in_group(
        self: &Arc<Self>,
        container: &Container,
        shim: &Shim,
        plan: Plan,
        limits: Limits,
    ) -> Result<Created> {
        if plan.meta.external.is_some() {
            return self.make_elsewhere(container, shim, plan, limits).await;
        }
        let Plan { spec, sources, meta, .. } = plan;
        apparmor::verify_shim(spec.process.apparmor.as_deref(), shim.client.version())?;
        let group = self.cgroups.group(&container.meta.cgroup).context(|| "name the container's cgroup")?;
        let paths = self.paths.container(container.id());
        let spec = blocking(move || -> Result<ContainerSpec> {
            prepare_directories(&paths, &sources, &spec)?;
            if !meta.hooks.is_empty() {
                hooks::write_bundle(&paths, &spec, &meta.hooks)?;
            }
            group.create(&limits).map_err(refused_limit)?;
            Ok(ContainerSpec { cgroup: cgroup_of(&group), ..spec })
        })
        .await?;
        match shim.client.call(Request::Create(Box::new(spec))).await? {
            Response::Created(created) => Ok(created),
            Response::Paused { pid } => {
                self.run_creation_hooks(container, pid).await?;
                match shim.client.call(Request::Proceed { id: container.id().to_owned() }).await? {
                    Response::Created(created) => Ok(created),
                    other => Err(unexpected(&other)),
                }
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// What the shim has to know of a container's group.
pub(super) fn cgroup_of(group: &Group) -> CgroupSpec {
    let join = if group.v2_dir().is_some() { Vec::new() } else { group.join_files() };
    CgroupSpec { v2_dir: group.v2_dir(), oom_counter: Some(group.oom_counter()), join }
}

/// The writable layer, the log's directory, and host paths of mounts that are not there yet.
pub(super) fn prepare_directories(paths: &ContainerPaths, sources: &[Source], spec: &ContainerSpec) -> Result<()> {
    let private = |path: &std::path::Path, mode| {
        fs::DirBuilder::new().mode(mode).create(path).context(|| format!("make {}", path.display()))
    };
    private(&paths.directory, 0o700)?;
    // The upper directory's mode is the root directory's inside.
    private(&paths.upper(), 0o755)?;
    private(&paths.work(), 0o700)?;
    for source in sources {
        let path = &source.path;
        // A socket, device or file is mounted as what it is; what is missing becomes a directory, as in CRI's
        // other runtimes.
        if fs::symlink_metadata(path).is_err() {
            fs::create_dir_all(path).context(|| format!("make {} for a mount", path.display()))?;
        }
        propagation::check(path, source.propagation)?;
    }
    if let Some(directory) = spec.log.as_ref().and_then(|log| log.path.parent()) {
        fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
    }
    Ok(())
}

/// A limit that makes no sense is the caller's mistake, the rest is the machine's.
pub(super) fn refused_limit(error: podd_cgroup::Error) -> CriError {
    match error.kind() {
        podd_cgroup::ErrorKind::Invalid => CriError::Invalid(CriError::internal("resources", error).chain()),
        podd_cgroup::ErrorKind::Unsupported => CriError::Unsupported(CriError::internal("resources", error).chain()),
        _ => CriError::internal("make the container's cgroup", error),
    }
}
