//! What a request must be like whatever the state of the world: sizes, characters and numbers, each refused by the name
//! of its field. What a field means for a sandbox or container is its plan's business.

use std::collections::BTreeMap;

use podd_cri::v1::{ContainerConfig, LinuxContainerResources, MountPropagation, PodSandboxConfig, Signal};

use crate::error::{CriError, Result, excerpt};

/// The longest name of a pod, namespace or container and the longest uid: what Kubernetes allows a pod's name.
const NAME_MAX: usize = 253;
/// `PATH_MAX` less its NUL.
const PATH_MAX: usize = 4095;
/// `NAME_MAX` of Linux' file systems.
const COMPONENT_MAX: usize = 255;
/// Items of any one list. Together they are bounded by the size of a message.
const ITEMS_MAX: usize = 100_000;
/// `MAX_ARG_STRLEN` less its NUL: the longest argument or variable that execve(2) takes.
const ARGUMENT_MAX: usize = (128 << 10) - 1;

/// Checks a sandbox's configuration.
pub(crate) fn check_sandbox(config: &PodSandboxConfig) -> Result<()> {
    let metadata = config.metadata.as_ref().ok_or_else(|| CriError::invalid("config.metadata is missing"))?;
    for (field, text) in [("name", &metadata.name), ("uid", &metadata.uid), ("namespace", &metadata.namespace)] {
        name(&format!("metadata.{field}"), text, field == "name")?;
    }
    path("log_directory", &config.log_directory)?;
    keys("labels", &config.labels)?;
    keys("annotations", &config.annotations)?;
    count("port_mappings", config.port_mappings.len())?;
    if let Some(dns) = &config.dns_config {
        for (field, values) in [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)] {
            count(&format!("dns_config.{field}"), values.len())?;
            // Each becomes a word of a line of resolv.conf.
            if let Some(wrong) = values.iter().find(|value| value.is_empty() || value.chars().any(breaks_a_word)) {
                return Err(CriError::invalid(format!("dns_config.{field} {} is not one word", excerpt(wrong))));
            }
        }
    }
    if let Some(linux) = &config.linux {
        path("linux.cgroup_parent", &linux.cgroup_parent)?;
        for (key, value) in &linux.sysctls {
            text("linux.sysctls", key, PATH_MAX)?;
            text("linux.sysctls", value, PATH_MAX)?;
        }
    }
    Ok(())
}

/// Checks a container's configuration.
pub(crate) fn check_container(config: &ContainerConfig) -> Result<()> {
    let metadata = config.metadata.as_ref().ok_or_else(|| CriError::invalid("config.metadata is missing"))?;
    name("metadata.name", &metadata.name, true)?;
    keys("labels", &config.labels)?;
    keys("annotations", &config.annotations)?;
    path("log_path", &config.log_path)?;
    path("working_dir", &config.working_dir)?;
    arguments("command", &config.command)?;
    arguments("args", &config.args)?;
    count("envs", config.envs.len())?;
    for env in &config.envs {
        text("envs", &env.key, ARGUMENT_MAX)?;
        if env.value.len() > ARGUMENT_MAX {
            let length = env.value.len();
            return Err(CriError::invalid(format!("envs has {length} bytes, at most {ARGUMENT_MAX} are allowed")));
        }
    }
    count("mounts", config.mounts.len())?;
    for mount in &config.mounts {
        path("mounts.container_path", &mount.container_path)?;
        path("mounts.host_path", &mount.host_path)?;
        path("mounts.image_sub_path", &mount.image_sub_path)?;
        if MountPropagation::try_from(mount.propagation).is_err() {
            return Err(CriError::invalid(format!("mounts.propagation {} is not known", mount.propagation)));
        }
    }
    count("devices", config.devices.len())?;
    for device in &config.devices {
        path("devices.host_path", &device.host_path)?;
        path("devices.container_path", &device.container_path)?;
    }
    if Signal::try_from(config.stop_signal).is_err() {
        return Err(CriError::invalid(format!("stop_signal {} is not known", config.stop_signal)));
    }
    match config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
        Some(resources) => check_resources(resources),
        None => Ok(()),
    }
}

/// Checks resources: zero leaves as it is, and -1 is "no limit" where there can be none.
pub(crate) fn check_resources(resources: &LinuxContainerResources) -> Result<()> {
    for (field, value, least) in [
        ("cpu_period", resources.cpu_period, 0),
        ("cpu_quota", resources.cpu_quota, -1),
        ("cpu_shares", resources.cpu_shares, 0),
        ("memory_limit_in_bytes", resources.memory_limit_in_bytes, -1),
        ("memory_swap_limit_in_bytes", resources.memory_swap_limit_in_bytes, -1),
    ] {
        if value < least {
            return Err(CriError::invalid(format!("resources.{field} {value} must not be less than {least}")));
        }
    }
    count("resources.hugepage_limits", resources.hugepage_limits.len())?;
    for (key, value) in &resources.unified {
        path("resources.unified", key)?;
        text("resources.unified", value, PATH_MAX)?;
    }
    Ok(())
}

/// Seconds of a request, which are never fewer than none.
pub(crate) fn seconds(field: &str, seconds: i64) -> Result<u64> {
    u64::try_from(seconds).map_err(|_| CriError::invalid(format!("{field} {seconds} must not be negative")))
}

/// Checks the words of a command.
pub(crate) fn arguments(field: &str, words: &[String]) -> Result<()> {
    count(field, words.len())?;
    words.iter().try_for_each(|word| text(field, word, ARGUMENT_MAX))
}

fn count(field: &str, items: usize) -> Result<()> {
    if items > ITEMS_MAX {
        return Err(CriError::invalid(format!("{field} has {items} items, at most {ITEMS_MAX} are allowed")));
    }
    Ok(())
}

/// A name shows up in logs, in errors and in other programs' paths, so that it must not change their meaning.
fn name(field: &str, value: &str, required: bool) -> Result<()> {
    if required && value.is_empty() {
        return Err(CriError::invalid(format!("{field} is empty")));
    }
    if value.len() > NAME_MAX {
        return Err(CriError::invalid(format!("{field} has {} bytes, at most {NAME_MAX} are allowed", value.len())));
    }
    if value.contains('/') || value.chars().any(char::is_control) {
        return Err(CriError::invalid(format!("{field} {value:?} must not contain \"/\" or control characters")));
    }
    Ok(())
}

fn path(field: &str, value: &str) -> Result<()> {
    text(field, value, PATH_MAX)?;
    if let Some(long) = value.split('/').find(|part| part.len() > COMPONENT_MAX) {
        let length = long.len();
        return Err(CriError::invalid(format!(
            "{field}: a part has {length} bytes, at most {COMPONENT_MAX} are possible"
        )));
    }
    Ok(())
}

fn text(field: &str, value: &str, most: usize) -> Result<()> {
    if value.len() > most {
        return Err(CriError::invalid(format!("{field} has {} bytes, at most {most} are allowed", value.len())));
    }
    if value.contains('\0') {
        return Err(CriError::invalid(format!("{field} {} contains a NUL", excerpt(value))));
    }
    Ok(())
}

/// Any number and any value; they are kept and shown, never looked into.
fn keys(field: &str, pairs: &BTreeMap<String, String>) -> Result<()> {
    if pairs.contains_key("") {
        return Err(CriError::invalid(format!("{field} has an empty key")));
    }
    Ok(())
}

fn breaks_a_word(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

#[cfg(test)]
mod tests;
