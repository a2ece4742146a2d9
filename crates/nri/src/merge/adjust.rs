//! One plugin's adjustment, added to those before it and to the container as the next one sees it.

use std::convert::Infallible;

use super::{Conflict, Creation, removed, resources};
use crate::message::{ContainerAdjustment, Field, KeyValue, LinuxContainer, LinuxContainerAdjustment};

/// Adds one field that is a list of named entries. What is marked is removed from what the plugins asked for and from
/// what is seen; the mark itself is passed on unless the plugin sets the entry anew.
macro_rules! entries {
    ($owners:ident, $id:ident, $plugin:ident, $field:expr, $from:expr, $name:ident, $asked:expr, $seen:expr) => {{
        let (marked, set): (Vec<_>, Vec<_>) = $from.into_iter().partition(|entry| removed(&entry.$name).is_some());
        for mark in marked {
            let name = removed(&mark.$name).unwrap_or_default().to_owned();
            $owners.clear($id, $field, &name);
            $asked.retain(|entry| entry.$name != name && entry.$name != mark.$name);
            $seen.retain(|entry| entry.$name != name);
            $asked.push(mark);
        }
        for entry in set {
            $owners.claim($id, $field, &entry.$name, $plugin)?;
            $seen.retain(|known| known.$name != entry.$name);
            $seen.push(entry.clone());
            $asked.push(entry);
        }
    }};
}

impl Creation {
    pub(super) fn adjust(&mut self, plugin: &str, wanted: ContainerAdjustment) -> Result<(), Conflict> {
        let ContainerAdjustment { annotations, mounts, env, hooks, linux, rlimits, cdi_devices, args } = wanted;
        let id = &self.container.id.clone();
        let owners = &mut self.updates.owners;
        let (asked, seen) = (&mut self.adjust, &mut self.container);

        let (marked, set): (Vec<_>, Vec<_>) = annotations.into_iter().partition(|(key, _)| removed(key).is_some());
        for (mark, value) in marked {
            let key = removed(&mark).unwrap_or_default();
            owners.clear(id, Field::Annotations, key);
            asked.annotations.remove(key);
            seen.annotations.remove(key);
            asked.annotations.insert(mark, value);
        }
        for (key, value) in set {
            owners.claim(id, Field::Annotations, &key, plugin)?;
            seen.annotations.insert(key.clone(), value.clone());
            asked.annotations.insert(key, value);
        }

        entries!(owners, id, plugin, Field::Mounts, mounts, destination, asked.mounts, seen.mounts);
        let mut variables: Vec<KeyValue> = seen.env.iter().map(|variable| key_value(variable)).collect();
        entries!(owners, id, plugin, Field::Env, env, key, asked.env, variables);
        seen.env = variables.into_iter().map(|KeyValue { key, value }| format!("{key}={value}")).collect();
        entries!(owners, id, plugin, Field::Rlimits, rlimits, r#type, asked.rlimits, seen.rlimits);
        entries!(owners, id, plugin, Field::CdiDevices, cdi_devices, name, asked.cdi_devices, seen.cdi_devices);

        if !args.is_empty() {
            // An empty program in front takes over what another plugin has set.
            let args = match args.split_first() {
                Some((first, rest)) if first.is_empty() => {
                    owners.clear(id, Field::Args, "");
                    rest.to_vec()
                }
                _ => args,
            };
            owners.claim(id, Field::Args, "", plugin)?;
            seen.args.clone_from(&args);
            asked.args = args;
        }
        if let Some(hooks) = hooks {
            // They add up: nobody owns them.
            for all in [&mut asked.hooks, &mut seen.hooks] {
                let all = all.get_or_insert_with(Default::default);
                all.prestart.extend(hooks.prestart.iter().cloned());
                all.create_runtime.extend(hooks.create_runtime.iter().cloned());
                all.create_container.extend(hooks.create_container.iter().cloned());
                all.start_container.extend(hooks.start_container.iter().cloned());
                all.poststart.extend(hooks.poststart.iter().cloned());
                all.poststop.extend(hooks.poststop.iter().cloned());
            }
        }
        match linux {
            Some(linux) => self.adjust_linux(plugin, linux),
            None => Ok(()),
        }
    }

    fn adjust_linux(&mut self, plugin: &str, wanted: LinuxContainerAdjustment) -> Result<(), Conflict> {
        let id = &self.container.id.clone();
        let owners = &mut self.updates.owners;
        let asked = self.adjust.linux.get_or_insert_with(LinuxContainerAdjustment::default);
        let seen = self.container.linux.get_or_insert_with(LinuxContainer::default);

        entries!(owners, id, plugin, Field::Devices, wanted.devices, path, asked.devices, seen.devices);
        entries!(owners, id, plugin, Field::Namespace, wanted.namespaces, r#type, asked.namespaces, seen.namespaces);
        if let Some(wanted) = &wanted.resources {
            let into = asked.resources.get_or_insert_with(Default::default);
            resources::merge(into, wanted, &mut |field, entry| owners.claim(id, field, entry, plugin))?;
            let into = seen.resources.get_or_insert_with(Default::default);
            let Ok(()) = resources::merge(into, wanted, &mut |_, _| Ok::<(), Infallible>(()));
        }
        if !wanted.cgroups_path.is_empty() {
            owners.claim(id, Field::CgroupsPath, "", plugin)?;
            seen.cgroups_path.clone_from(&wanted.cgroups_path);
            asked.cgroups_path = wanted.cgroups_path;
        }
        macro_rules! whole {
            ($($field:ident $name:ident),*) => {$(
                if wanted.$field.is_some() {
                    owners.claim(id, Field::$name, "", plugin)?;
                    seen.$field.clone_from(&wanted.$field);
                    asked.$field = wanted.$field;
                }
            )*};
        }
        whole!(oom_score_adj OomScoreAdj, io_priority IoPriority, seccomp_policy SeccompPolicy, scheduler LinuxSched,
            rdt RdtClosId);
        if wanted.memory_policy.is_some() {
            owners.claim(id, Field::MemoryPolicy, "", plugin)?;
            asked.memory_policy = wanted.memory_policy;
        }
        for (key, value) in wanted.sysctl {
            owners.claim(id, Field::Sysctl, &key, plugin)?;
            seen.sysctl.insert(key.clone(), value.clone());
            asked.sysctl.insert(key, value);
        }
        for (key, device) in wanted.net_devices {
            owners.claim(id, Field::LinuxNetDevices, &key, plugin)?;
            seen.net_devices.insert(key.clone(), device.clone());
            asked.net_devices.insert(key, device);
        }
        Ok(())
    }
}

fn key_value(variable: &str) -> KeyValue {
    let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}
