//! The first process: what runs, with what environment, where, as whom.

use oci_spec::image::Config as ImageConfig;
use podd_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use podd_shim::wire::{Groups, Process, UserSpec};

use super::{Context, security};
use crate::error::{CriError, Result};
use crate::seccomp::Conditions;

/// What a process finds when neither manifest nor image says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn plan(
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    image: &ImageConfig,
    context: &Context<'_>,
    oom_score_adj: i64,
) -> Result<Process> {
    let args = args(config, image)?;
    if let Some(wrong) = args.iter().find(|arg| arg.contains('\0')) {
        return Err(CriError::invalid(format!("argument {wrong:?} contains a NUL")));
    }
    let capabilities = security::capabilities(security, context.bounding)?;
    let conditions = Conditions { capabilities: capabilities.bounding, kernel: context.kernel };
    Ok(Process {
        args,
        env: env(config, image, &context.sandbox.hostname)?,
        cwd: working_directory(config, image)?.into(),
        user: user(security, image)?,
        capabilities,
        no_new_privileges: security.no_new_privs,
        seccomp: security::profiles(security, context.seccomp.as_ref(), &conditions, context.selinux)?,
        apparmor: context.apparmor.clone(),
        rlimits: Vec::new(),
        oom_score_adj: Some(
            i32::try_from(oom_score_adj)
                .ok()
                .filter(|adj| (-1000..=1000).contains(adj))
                .ok_or_else(|| CriError::invalid(format!("oom_score_adj {oom_score_adj} is not in -1000..=1000")))?,
        ),
        umask: None,
    })
}

/// `command` takes the place of the image's entrypoint and of its command; `args` only of the command.
fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let entrypoint = image.entrypoint().clone().unwrap_or_default();
    let command = image.cmd().clone().unwrap_or_default();
    let args = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => [entrypoint, command].concat(),
        (true, false) => [entrypoint, config.args.clone()].concat(),
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
    };
    match args.first() {
        Some(program) if !program.is_empty() => Ok(args),
        _ => Err(CriError::invalid("no command specified: neither the container nor its image names one")),
    }
}

/// The image's variables, then the container's, the last of a name in the first one's place; with what podd adds.
fn env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<Vec<String>> {
    let mut env: Vec<(String, String)> = vec![("PATH".into(), PATH.into())];
    if !hostname.is_empty() {
        env.push(("HOSTNAME".into(), hostname.into()));
    }
    if config.tty {
        env.push(("TERM".into(), "xterm".into()));
    }
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|variable| variable.0 == name) {
        Some(variable) => value.clone_into(&mut variable.1),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    for variable in image.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for variable in &config.envs {
        let name = &variable.key;
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(CriError::invalid(format!("environment variable name {name:?} is invalid")));
        }
        let value = std::str::from_utf8(&variable.value)
            .ok()
            .filter(|value| !value.contains('\0'))
            .ok_or_else(|| CriError::invalid(format!("environment variable {name} must be UTF-8 without NUL")))?;
        set(name, value);
    }
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn working_directory(config: &ContainerConfig, image: &ImageConfig) -> Result<String> {
    let directory = [config.working_dir.as_str(), image.working_dir().as_deref().unwrap_or_default()]
        .into_iter()
        .find(|directory| !directory.is_empty())
        .unwrap_or("/");
    if !directory.starts_with('/') || directory.contains('\0') {
        return Err(CriError::invalid(format!("working_dir {directory:?} must be absolute")));
    }
    Ok(directory.to_owned())
}

fn user(security: &LinuxContainerSecurityContext, image: &ImageConfig) -> Result<UserSpec> {
    let id = |what: &str, value: i64| {
        u32::try_from(value)
            .ok()
            .filter(|id| *id <= i32::MAX as u32)
            .ok_or_else(|| CriError::invalid(format!("{what} {value} is not in 0..=2147483647")))
    };
    let uid = security.run_as_user.as_ref().map(|user| id("run_as_user", user.value)).transpose()?;
    let gid = security.run_as_group.as_ref().map(|group| id("run_as_group", group.value)).transpose()?;
    let user = match (uid, security.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(CriError::invalid("run_as_user and run_as_username exclude each other"));
        }
        // A uid that overrides the image's user leaves the image's group behind, too.
        (Some(uid), _) => uid.to_string(),
        (None, "") => image.user().clone().unwrap_or_default(),
        (None, name) => name.to_owned(),
    };
    if gid.is_some() && uid.is_none() && security.run_as_username.is_empty() {
        return Err(CriError::invalid("run_as_group needs run_as_user or run_as_username"));
    }
    let groups = match SupplementalGroupsPolicy::try_from(security.supplemental_groups_policy) {
        Ok(SupplementalGroupsPolicy::Merge) => Groups::Merge,
        Ok(SupplementalGroupsPolicy::Strict) => Groups::Strict,
        Err(_) => return Err(CriError::invalid("supplemental_groups_policy is not known")),
    };
    let additional_gids =
        security.supplemental_groups.iter().map(|&group| id("supplemental group", group)).collect::<Result<_>>()?;
    Ok(UserSpec { user, uid, gid, additional_gids, groups })
}
