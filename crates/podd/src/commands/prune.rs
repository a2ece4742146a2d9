//! `podd image prune`: removes images that nobody uses, over the agent's sockets.

use anyhow::anyhow;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use podd_cri::v1::{Image, ImageFsInfoRequest, ImageSpec, RemoveImageRequest};
use podd_cri::{ImageService as _, client::Client};
use tonic::Request;

use super::{api_error, images};
use crate::cli::ImagePrune;
use crate::client;
use crate::config::Settings;
use crate::print::say;

pub(crate) async fn run(args: &ImagePrune, settings: &Settings) -> anyhow::Result<()> {
    let cri = images::cri(settings).await?;
    let pods: Api<Pod> = Api::all(client::connect(settings).await?);
    let pods = pods.list(&kube::api::ListParams::default()).await.map_err(api_error)?.items;
    let listed = podd_agent::images_in_use(&cri, &cri, pods.iter()).await.map_err(said)?;
    let before = held(&cri).await?;
    let mut count = 0;
    for (image, _) in listed.iter().filter(|(image, used)| goes(image, *used, args.all)) {
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
fn goes(image: &Image, used: bool, all: bool) -> bool {
    !used && !image.pinned && (all || image.repo_tags.is_empty())
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
        let table = [
            (image("u", "", false), [false, false]),
            (image("a", "", false), [true, true]),
            (image("a", "t:1", false), [false, true]),
            (image("a", "", true), [false, false]),
        ];
        for (image, expected) in table {
            assert_eq!([false, true].map(|all| goes(&image, image.id == "u", all)), expected, "{image:?}");
        }
    }
}
