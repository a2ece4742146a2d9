//! Claims and volumes in a world that does what is decided, until nothing is left to do.

use serde_json::{Value, json};

use super::*;

/// The objects, and what was told.
#[derive(Default)]
struct Objects {
    claims: Vec<PersistentVolumeClaim>,
    volumes: Vec<PersistentVolume>,
    classes: Vec<StorageClass>,
    pods: Vec<Pod>,
    told: Vec<String>,
    /// Directories that are there.
    data: Vec<String>,
}

impl Objects {
    fn new() -> Objects {
        let mut objects = Objects::default();
        objects.class(DEFAULT_CLASS, json!({"volumeBindingMode": "WaitForFirstConsumer"}), true);
        objects
    }

    fn class(&mut self, name: &str, more: Value, default: bool) {
        let mut class = json!({"metadata": {"name": name}, "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate"});
        if default {
            class["metadata"]["annotations"] = json!({IS_DEFAULT_CLASS: "true"});
        }
        class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.classes.push(serde_json::from_value(class).unwrap());
    }

    fn claim(&mut self, name: &str, spec: Value) {
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let meta =
            json!({"name": name, "namespace": "n", "uid": format!("uid-{name}"), "finalizers": [CLAIM_PROTECTION]});
        self.claims.push(serde_json::from_value(json!({"metadata": meta, "spec": whole})).unwrap());
    }

    fn volume(&mut self, name: &str, spec: Value) {
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/data"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let meta = json!({"name": name, "finalizers": [VOLUME_PROTECTION], "labels": {"disk": name}});
        self.volumes.push(serde_json::from_value(json!({"metadata": meta, "spec": whole})).unwrap());
    }

    fn pod(&mut self, name: &str, volume: Value) {
        let mut volume = volume;
        volume["name"] = json!("v");
        let meta = json!({"name": name, "namespace": "n", "uid": format!("uid-{name}")});
        let pod = json!({"metadata": meta, "spec": {"containers": [], "volumes": [volume]}});
        self.pods.push(serde_json::from_value(pod).unwrap());
    }

    fn user_of(&mut self, claim: &str) {
        self.pod(&format!("user-of-{claim}"), json!({"persistentVolumeClaim": {"claimName": claim}}));
    }

    fn delete_claim(&mut self, name: &str) {
        self.of(name).metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    }

    fn of(&mut self, name: &str) -> &mut PersistentVolumeClaim {
        self.claims.iter_mut().find(|claim| claim.metadata.name.as_deref() == Some(name)).expect("a claim")
    }

    fn volume_of(&mut self, name: &str) -> &mut PersistentVolume {
        self.volumes.iter_mut().find(|volume| volume.metadata.name.as_deref() == Some(name)).expect("a volume")
    }

    /// Does what is decided until nothing is left but to tell.
    fn settle(&mut self) {
        for _ in 0..20 {
            let world = World {
                claims: self.claims.iter().collect(),
                volumes: self.volumes.iter().collect(),
                classes: self.classes.iter().collect(),
                pods: self.pods.iter().collect(),
                node: "node",
                directory: "/root/claims",
            };
            let actions = decide(&world);
            self.told.clear();
            let mut done = 0;
            for action in actions {
                if let Action::Tell { reason, message, .. } = action {
                    self.told.push(format!("{reason}: {message}"));
                } else {
                    self.act(action);
                    done += 1;
                }
            }
            if done == 0 {
                return;
            }
        }
        panic!("it never settles");
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::CreateClaim(mut claim) => {
                claim.metadata.uid = Some(format!("uid-{}", claim.metadata.name.clone().unwrap()));
                claim.metadata.finalizers = Some(vec![CLAIM_PROTECTION.into()]);
                self.claims.push(*claim);
            }
            Action::DeleteClaim(key) => self.delete_claim(&key.name),
            Action::SetClass(key, class) => {
                self.of(&key.name).spec.as_mut().unwrap().storage_class_name = Some(class);
            }
            Action::Provision { volume, .. } => {
                self.data.push(volume.spec.as_ref().unwrap().local.as_ref().unwrap().path.clone());
                self.volumes.push(*volume);
            }
            Action::BindVolume { volume, claim } => {
                self.volume_of(&volume).spec.as_mut().unwrap().claim_ref = Some(*claim);
            }
            Action::BindClaim(key, volume) => self.of(&key.name).spec.as_mut().unwrap().volume_name = Some(volume),
            Action::ClaimStatus { claim, phase, capacity, .. } => {
                let status = self.of(&claim.name).status.get_or_insert_default();
                status.phase = Some(phase.into());
                status.capacity = capacity.map(|capacity| [("storage".into(), Quantity(capacity))].into());
            }
            Action::VolumeStatus { volume, phase, .. } => {
                self.volume_of(&volume).status.get_or_insert_default().phase = Some(phase.into());
            }
            Action::Grow { volume, capacity } => {
                let capacity = [("storage".into(), Quantity(capacity))].into();
                self.volume_of(&volume).spec.as_mut().unwrap().capacity = Some(capacity);
            }
            Action::UnprotectClaim(key) => self.claims.retain(|claim| key_of(claim) != key),
            Action::UnprotectVolume(name) => self.volumes.retain(|volume| volume.metadata.name.as_ref() != Some(&name)),
            Action::Reclaim { volume, path } => {
                self.data.retain(|data| *data != path);
                self.volumes.retain(|known| known.metadata.name.as_ref() != Some(&volume));
            }
            Action::Tell { .. } => unreachable!("told above"),
        }
    }

    fn phase(&mut self, claim: &str) -> String {
        phase_of(self.of(claim)).to_owned()
    }

    fn volume_phase(&mut self, volume: &str) -> String {
        self.volume_of(volume).status.clone().unwrap_or_default().phase.unwrap_or_default()
    }

    fn bound_to(&mut self, claim: &str) -> String {
        self.of(claim).spec.clone().unwrap().volume_name.unwrap_or_default()
    }
}

#[test]
fn a_claim_of_the_default_class_waits_for_its_first_pod_and_then_has_a_directory() {
    let mut objects = Objects::new();
    objects.claim("data", json!({}));
    objects.settle();
    assert_eq!(objects.phase("data"), "Pending");
    assert_eq!(objects.told, ["WaitForFirstConsumer: waiting for first consumer to be created before binding"]);
    objects.user_of("data");
    objects.settle();
    assert_eq!(objects.phase("data"), "Bound");
    assert_eq!(objects.data, ["/root/claims/pvc-uid-data_n_data"]);
    let status = objects.of("data").status.clone().unwrap();
    assert_eq!(status.capacity.unwrap()["storage"].0, "1Gi");
    let volume = objects.bound_to("data");
    assert_eq!((volume.as_str(), objects.volume_phase(&volume).as_str()), ("pvc-uid-data", "Bound"));
    assert_eq!(objects.told, [""; 0]);
}

#[test]
fn a_deleted_claim_stays_while_a_pod_uses_it_and_its_data_goes_after_it() {
    let mut objects = Objects::new();
    objects.claim("data", json!({}));
    objects.user_of("data");
    objects.settle();
    objects.delete_claim("data");
    objects.settle();
    assert_eq!((objects.claims.len(), objects.data.len()), (1, 1));
    // A pod that is over uses nothing.
    objects.pods[0].status.get_or_insert_default().phase = Some("Succeeded".into());
    objects.settle();
    assert_eq!((objects.claims.len(), objects.volumes.len(), objects.data.len()), (0, 0, 0));
}

#[test]
fn a_class_that_retains_keeps_the_data_and_the_volume() {
    let mut objects = Objects::new();
    objects.class("keeper", json!({"reclaimPolicy": "Retain"}), false);
    objects.claim("data", json!({"storageClassName": "keeper"}));
    objects.settle();
    assert_eq!(objects.phase("data"), "Bound", "it is made at once");
    objects.delete_claim("data");
    objects.settle();
    assert_eq!((objects.claims.len(), objects.data.len()), (0, 1));
    assert_eq!(objects.volume_phase("pvc-uid-data"), "Released");
    // A new claim of that name is another one.
    objects.claim("data", json!({"storageClassName": "keeper"}));
    objects.of("data").metadata.uid = Some("another".into());
    objects.settle();
    assert_eq!(objects.bound_to("data"), "pvc-another");
}

#[test]
fn a_claim_takes_the_smallest_volume_that_fits_and_no_other_claim_gets_it() {
    let mut objects = Objects::new();
    objects.volume("small", json!({"capacity": {"storage": "512Mi"}}));
    objects.volume("big", json!({"capacity": {"storage": "9Gi"}}));
    objects.volume("middle", json!({}));
    objects.volume("other-class", json!({"storageClassName": "x"}));
    objects.claim("a", json!({"storageClassName": ""}));
    objects.claim("b", json!({"storageClassName": ""}));
    objects.claim("c", json!({"storageClassName": ""}));
    objects.settle();
    assert_eq!((objects.bound_to("a").as_str(), objects.bound_to("b").as_str()), ("middle", "big"));
    assert_eq!(objects.phase("c"), "Pending");
    assert_eq!(objects.volume_phase("small"), "Available");
    assert!(objects.told[0].starts_with("FailedBinding: no persistent volumes available"), "{:?}", objects.told);
    // It is handed back when its claim is gone, but to nobody else.
    objects.delete_claim("a");
    objects.settle();
    assert_eq!(objects.volume_phase("middle"), "Released");
    assert_eq!(objects.phase("c"), "Pending");
}

#[test]
fn volumes_and_claims_that_name_each_other_find_each_other() {
    let mut objects = Objects::new();
    objects.volume("kept", json!({"claimRef": {"namespace": "n", "name": "b"}}));
    objects.volume("free", json!({}));
    objects.claim("a", json!({"storageClassName": "", "volumeName": "kept"}));
    objects.claim("b", json!({"storageClassName": ""}));
    objects.claim("c", json!({"storageClassName": "", "volumeName": "free"}));
    objects.claim("d", json!({"storageClassName": "", "selector": {"matchLabels": {"disk": "none"}}}));
    objects.settle();
    assert_eq!(objects.phase("a"), "Pending");
    assert_eq!((objects.bound_to("b").as_str(), objects.phase("c").as_str()), ("kept", "Bound"));
    assert_eq!(objects.phase("d"), "Pending");
    assert!(objects.told[0].contains("already bound to a different claim"), "{:?}", objects.told);
    // What a claim has lost is told.
    objects.volumes.retain(|volume| volume.metadata.name.as_deref() != Some("free"));
    objects.settle();
    assert_eq!(objects.phase("c"), "Lost");
}

#[test]
fn what_a_claim_waits_for_is_told() {
    let table = [
        (
            json!({"storageClassName": "standard"}),
            "ProvisioningFailed: storageclass.storage.k8s.io \"standard\" not found",
        ),
        (
            json!({"storageClassName": "cloud"}),
            "ExternalProvisioning: Waiting for a volume to be created either by the",
        ),
        (
            json!({"storageClassName": "manual"}),
            "FailedBinding: no persistent volumes available for this claim, and its",
        ),
        (
            json!({"storageClassName": ""}),
            "FailedBinding: no persistent volumes available for this claim and no storage",
        ),
        (
            json!({"storageClassName": "now", "selector": {"matchLabels": {"a": "b"}}}),
            "ProvisioningFailed: claim.Spec.Selector is not supported for dynamic provisioning",
        ),
        (json!({"storageClassName": "now", "volumeMode": "Block"}), "ProvisioningFailed: podd makes directories"),
    ];
    for (spec, want) in table {
        let mut objects = Objects::new();
        objects.class("cloud", json!({"provisioner": "ebs.csi.aws.com"}), false);
        objects.class("manual", json!({"provisioner": "kubernetes.io/no-provisioner"}), false);
        objects.class("now", json!({}), false);
        objects.claim("data", spec.clone());
        objects.settle();
        assert_eq!(objects.phase("data"), "Pending");
        assert!(objects.told.len() == 1 && objects.told[0].starts_with(want), "{spec}: {:?}", objects.told);
    }
    let mut objects = Objects::default();
    objects.claim("data", json!({}));
    objects.settle();
    assert!(objects.told[0].starts_with("FailedBinding"), "no class is the default: {:?}", objects.told);
}

#[test]
fn a_claim_grows_and_its_volume_with_it() {
    let mut objects = Objects::new();
    objects.claim("data", json!({}));
    objects.user_of("data");
    objects.settle();
    let grown = json!({"requests": {"storage": "5Gi"}});
    objects.of("data").spec.as_mut().unwrap().resources = Some(serde_json::from_value(grown).unwrap());
    objects.settle();
    assert_eq!(objects.of("data").status.clone().unwrap().capacity.unwrap()["storage"].0, "5Gi");
}

#[test]
fn the_claim_of_an_ephemeral_volume_is_made_for_its_pod_and_goes_with_it() {
    let mut objects = Objects::new();
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
    objects.pod("p", json!({"ephemeral": {"volumeClaimTemplate": template}}));
    objects.settle();
    assert_eq!(objects.phase("p-v"), "Bound");
    let claim = objects.of("p-v").clone();
    assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
    assert!(is_owned_by(&claim, &objects.pods[0]));
    objects.pods.clear();
    objects.settle();
    assert_eq!((objects.claims.len(), objects.volumes.len(), objects.data.len()), (0, 0, 0));
}

#[test]
fn a_claim_that_another_pod_of_that_name_left_goes_before_the_new_one_is_made() {
    let mut objects = Objects::new();
    objects.claim("p-v", json!({}));
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "old", "controller": true}]);
    objects.of("p-v").metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    objects.pod("p", json!({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}));
    objects.settle();
    let claim = objects.of("p-v").clone();
    assert!(claim.metadata.deletion_timestamp.is_none() && is_owned_by(&claim, &objects.pods[0]));
    assert_eq!(objects.phase("p-v"), "Bound");
}

#[test]
fn a_volume_that_another_node_has_is_not_taken() {
    let on = |node: &str, operator: &str| {
        json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": operator, "values": [node]}]}]}}})
    };
    let table = [("node", "In", "Bound"), ("other", "In", "Pending"), ("node", "NotIn", "Pending")];
    for (node, operator, want) in table {
        let mut objects = Objects::new();
        objects.volume("disk", on(node, operator));
        objects.claim("data", json!({"storageClassName": ""}));
        objects.settle();
        assert_eq!(objects.phase("data"), want, "{operator} {node}");
    }
}

#[test]
fn volumes_of_another_provisioner_do_not_grow() {
    let mut objects = Objects::new();
    objects.volume("disk", json!({}));
    let by = [(PROVISIONED_BY.to_owned(), "ebs.csi.aws.com".to_owned())].into();
    objects.volume_of("disk").metadata.annotations = Some(by);
    objects.claim("data", json!({"storageClassName": "", "volumeName": "disk"}));
    objects.settle();
    let grown = json!({"requests": {"storage": "5Gi"}});
    objects.of("data").spec.as_mut().unwrap().resources = Some(serde_json::from_value(grown).unwrap());
    objects.settle();
    assert_eq!(objects.of("data").status.clone().unwrap().capacity.unwrap()["storage"].0, "2Gi");
}
