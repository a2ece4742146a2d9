//! The ConfigMaps and Secrets that a pod names: which ones, and fetching them. Each is read anew whenever it is needed
//! (the API is on this machine more often than not, and an old value is worse than a call); nothing is kept, so that a
//! Secret is in memory only while something is made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Volume};

use crate::worker::PodObjects;

/// An object could not be read; that there is none is no error.
#[derive(Debug, thiserror::Error)]
#[error("get {kind} {name:?}")]
pub struct Unread {
    /// `configmap` or `secret`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Names of objects in a pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// Objects that were fetched; one that is missing here does not exist. It cannot be printed, for what is in it.
#[derive(Default)]
pub(crate) struct Referenced {
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    pub(crate) secrets: BTreeMap<String, Secret>,
}

impl Names {
    /// What a container's environment is made of.
    pub(crate) fn of_environment(container: &Container) -> Names {
        let mut names = Names::default();
        for from in container.env_from.iter().flatten() {
            names.config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            names.secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.config_maps.extend(from.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            names.secrets.extend(from.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
        names
    }

    /// What the pod's volumes show.
    pub(crate) fn of_volumes(pod: &Pod) -> Names {
        let mut names = Names::default();
        for volume in volumes(pod) {
            names.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
            names.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
            let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
            for source in projected {
                names.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
                names.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
            }
        }
        names
    }

    /// Fetches them all.
    pub(crate) async fn fetch(self, objects: &dyn PodObjects, namespace: &str) -> Result<Referenced, Unread> {
        let mut found = Referenced::default();
        for name in self.config_maps {
            if let Some(object) = objects.config_map(namespace, &name).await? {
                found.config_maps.insert(name, object);
            }
        }
        for name in self.secrets {
            if let Some(object) = objects.secret(namespace, &name).await? {
                found.secrets.insert(name, object);
            }
        }
        Ok(found)
    }
}

impl Referenced {
    /// The ConfigMap of this name; nothing if it may be missing, else the kubelet's words.
    pub(crate) fn config_map(&self, name: &str, optional: bool) -> Result<Option<&ConfigMap>, String> {
        match self.config_maps.get(name) {
            None if !optional => Err(format!("configmap \"{name}\" not found")),
            found => Ok(found),
        }
    }

    /// As `config_map`, for a Secret.
    pub(crate) fn secret(&self, name: &str, optional: bool) -> Result<Option<&Secret>, String> {
        match self.secrets.get(name) {
            None if !optional => Err(format!("secret \"{name}\" not found")),
            found => Ok(found),
        }
    }
}

/// Whether volumes of the pod show its own labels or annotations.
pub(crate) fn shows_metadata(pod: &Pod) -> bool {
    volumes(pod).iter().any(|volume| {
        let mut projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
        volume.downward_api.is_some() || projected.any(|source| source.downward_api.is_some())
    })
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_name_that_a_pod_mentions_is_found() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [
                {"name": "a", "configMap": {"name": "c1"}},
                {"name": "b", "secret": {"secretName": "s1"}},
                {"name": "c", "projected": {"sources": [
                    {"configMap": {"name": "c2"}}, {"secret": {"name": "s2"}}, {"downwardAPI": {}}]}},
            ],
            "containers": [{"name": "x",
                "envFrom": [{"configMapRef": {"name": "c3"}}, {"secretRef": {"name": "s3"}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c4", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}]}],
        }}))
        .expect("a pod");
        let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        let of_volumes = Names::of_volumes(&pod);
        assert_eq!((names(&of_volumes.config_maps), names(&of_volumes.secrets)), ("c1 c2".into(), "s1 s2".into()));
        let of_environment = Names::of_environment(&pod.spec.as_ref().expect("a spec").containers[0]);
        assert_eq!(
            (names(&of_environment.config_maps), names(&of_environment.secrets)),
            ("c3 c4".into(), "s3 s4".into())
        );
        assert!(shows_metadata(&pod));
    }
}
