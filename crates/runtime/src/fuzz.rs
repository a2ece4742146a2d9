//! A fuzz target (`fuzz/`) of what CRI's messages become.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use podd_cri::v1::CreateContainerRequest;
use podd_image::Image;
use podd_shim::wire::{ContainerSpec, Decoder, encode};
use prost::Message as _;

use crate::CgroupDriver;
use crate::container::{Edits, limits, plan as container};
use crate::paths::Paths;
use crate::request::{check_container, check_sandbox};
use crate::sandbox::plan as sandbox;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// What a plan may take beside what it was asked: the default seccomp profile, mounts and variables.
const OWN: usize = 256 << 10;

fn image() -> Image {
    Image {
        id: format!("sha256:{ID}").parse().expect("a digest"),
        repo_tags: vec!["docker.io/library/x:1".to_owned()],
        repo_digests: Vec::new(),
        manifest: format!("sha256:{ID}").parse().expect("a digest"),
        size: 1,
        uid: None,
        username: String::new(),
        pinned: false,
        config: Arc::default(),
        layers: vec!["/images/layers/x/fs".into()],
    }
}

/// Any message is refused or becomes a plan that the shim and the records read back as itself, that is not much larger than
/// the message, and whose log lies where the sandbox's logs do.
#[test]
fn any_message_is_a_plan_or_refused() {
    let (image, paths) = (image(), Paths::new(Path::new("/root"), Path::new("/run")));
    let planned = |request: &CreateContainerRequest, driver| -> crate::Result<ContainerSpec> {
        let pod = request.sandbox_config.clone().unwrap_or_default();
        check_sandbox(&pod)?;
        let context = sandbox::Context {
            id: ID,
            now: 7,
            cgroup_root: Path::new("/podd"),
            cgroup_driver: driver,
            handlers: &BTreeMap::new(),
        };
        let meta = sandbox::plan(&context, &pod, "")?;
        let text = serde_json::to_string(&meta).expect("a record can be written");
        let again: crate::records::SandboxMeta = serde_json::from_str(&text).expect("and read");
        assert_eq!(serde_json::to_string(&again).expect("again"), text);
        let escapes = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        assert!(!escapes(&meta.cgroup_parent), "{:?}", meta.cgroup_parent);

        let config = request.config.clone().unwrap_or_default();
        check_container(&config)?;
        let volumes = vec![None; config.mounts.len()];
        let context = container::Context {
            id: ID,
            now: 7,
            sandbox: &meta,
            sandbox_paths: &paths.sandbox(ID),
            paths: &paths.container(ID),
            image: &image,
            bounding: u64::MAX >> 23,
            devices: Vec::new(),
            rules: Vec::new(),
            volumes: &volumes,
            edits: Edits::default(),
            hook_files: &[],
            log_limits: crate::LogLimits::default(),
            seccomp: None,
            apparmor: None,
            kernel: (6, 18),
            selinux: false,
            target: None,
        };
        let plan = container::plan(context, &config)?;
        let _limits = limits::limits(&plan.resources);
        if let Some(log) = &plan.spec.log {
            let directory = meta.log_directory.as_deref().expect("a log without a directory");
            assert!(log.path.starts_with(directory) && !escapes(&log.path), "{:?}", log.path);
        }
        assert!(plan.spec.mounts.iter().all(|mount| !escapes(&mount.destination)));
        Ok(plan.spec)
    };
    podd_fuzz::run("cri_conversion", |input| {
        let Ok(request) = CreateContainerRequest::decode(input) else { return };
        for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
            let spec = match planned(&request, driver) {
                Ok(spec) => spec,
                Err(error) => {
                    // What a caller is told is bounded elsewhere; it is text in any case.
                    let _text = error.chain();
                    continue;
                }
            };
            let bytes = encode(&spec).expect("a plan can be sent");
            // A byte is six in JSON at worst.
            assert!(bytes.len() <= OWN + 8 * input.len(), "{} of {}", bytes.len(), input.len());
            let mut decoder = Decoder::default();
            decoder.push(&bytes, []);
            let frame = decoder.next_frame().expect("a frame").expect("a whole frame");
            assert_eq!(frame.parse::<ContainerSpec>().expect("understood"), spec);
        }
    });
}
