//! `podd image prune`: removes images that nobody uses, over the agent's sockets.

use std::collections::BTreeSet;

use anyhow::anyhow;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use podd_cri::v1::{
    Image, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListContainersRequest, ListImagesRequest,
    RemoveImageRequest,
};
use podd_cri::{ImageService as _, RuntimeService as _, client::Client};
use tonic::Request;

use super::{api_error, images};
use crate::cli::ImagePrune;
use crate::client;
use crate::config::Settings;
use crate::print::say;

pub(crate) async fn run(args: &ImagePrune, settings: &Settings) -> anyhow::Result<()> {
    let cri = images::cri(settings).await?;
    let used = used(&cri, settings).await?;
    let answer = cri.list_images(Request::new(ListImagesRequest::default())).await.map_err(said)?;
    let before = held(&cri).await?;
    let mut count = 0;
    for image in answer.into_inner().images.iter().filter(|image| goes(image, &used, args.all)) {
        let spec = Some(ImageSpec { image: image.id.clone(), ..Default::default() });
        cri.remove_image(Request::new(RemoveImageRequest { image: spec })).await.map_err(said)?;
        for tag in &image.repo_tags {
            say!("untagged {tag}");
        }
        say!("deleted {}", image.id);
        count += 1;
    }
    let freed = before.saturating_sub(held(&cri).await?);
    say!("removed: {count}, freed: {}", images::bytes(freed));
    Ok(())
}

/// Whether an image goes: nobody uses it, it is not pinned, and it has no name, unless names do not matter.
fn goes(image: &Image, used: &BTreeSet<String>, all: bool) -> bool {
    let mut names = image.repo_digests.iter().chain(&image.repo_tags).chain([&image.id]);
    !image.pinned && (all || image.repo_tags.is_empty()) && !names.any(|name| used.contains(name))
}

/// The names and ids of images that containers have, or that pods name which have not ended.
async fn used(cri: &Client, settings: &Settings) -> anyhow::Result<BTreeSet<String>> {
    let pods: Api<Pod> = Api::all(client::connect(settings).await?);
    let mut used = BTreeSet::new();
    let has_ended =
        |pod: &Pod| matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    for pod in pods
        .list(&kube::api::ListParams::default())
        .await
        .map_err(api_error)?
        .items
        .iter()
        .filter(|pod| !has_ended(pod))
    {
        let Some(spec) = &pod.spec else { continue };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers).filter_map(|c| c.image.clone());
        let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.clone());
        for image in containers.chain(volumes) {
            let spec = Some(ImageSpec { image, ..Default::default() });
            let status = cri.image_status(Request::new(ImageStatusRequest { image: spec, verbose: false })).await;
            // A name that means nothing to the runtime is no image of its.
            used.extend(status.ok().and_then(|answer| answer.into_inner().image).map(|image| image.id));
        }
    }
    let containers = cri.list_containers(Request::new(ListContainersRequest { filter: None })).await.map_err(said)?;
    for container in containers.into_inner().containers {
        used.extend([container.image_id, container.image_ref]);
    }
    Ok(used)
}

/// Bytes that all images hold.
async fn held(cri: &Client) -> anyhow::Result<u64> {
    let answer = cri.image_fs_info(Request::new(ImageFsInfoRequest {})).await.map_err(said)?;
    let used = answer.into_inner().image_filesystems.into_iter().filter_map(|disk| disk.used_bytes);
    Ok(used.map(|bytes| bytes.value).sum())
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_pinned_or_named_stays() {
        let image = |id: &str, tag: &str, pinned| Image {
            id: id.into(),
            repo_tags: (!tag.is_empty()).then(|| tag.to_owned()).into_iter().collect(),
            pinned,
            ..Default::default()
        };
        let used = BTreeSet::from(["u".to_owned()]);
        let table = [
            (image("u", "", false), [false, false]),
            (image("a", "", false), [true, true]),
            (image("a", "t:1", false), [false, true]),
            (image("a", "", true), [false, false]),
        ];
        for (image, expected) in table {
            assert_eq!([goes(&image, &used, false), goes(&image, &used, true)], expected, "{image:?}");
        }
    }
}
