//! The fake's images: names as Docker writes them, ids that follow from the name.

use std::collections::BTreeMap;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::FakeRuntime;
use super::clock::nanos;
use crate::ImageService;
use crate::lists::chunks;
use crate::v1::*;

/// The full form of a name: registry, path and tag.
pub(super) fn full_name(name: &str) -> String {
    if name.starts_with("sha256:") {
        return name.to_owned();
    }
    let first = name.split('/').next().filter(|_| name.contains('/'));
    let has_registry = first.is_some_and(|f| f.contains(['.', ':']) || f == "localhost");
    let mut full = match first {
        Some(_) if has_registry => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

/// An image of that id, tag or digest.
pub(super) fn find<'a>(images: &'a BTreeMap<String, Image>, name: &str) -> Option<&'a Image> {
    if name.is_empty() {
        return None;
    }
    let full = full_name(name);
    images.get(&full).or_else(|| {
        let mut all = images.values();
        all.find(|image| image.repo_tags.contains(&full) || image.repo_digests.contains(&full))
    })
}

/// The image that a name stands for, always the same one.
pub(super) fn image(name: &str) -> Image {
    let full = full_name(name);
    let repository = full.split('@').next().unwrap_or(&full);
    let repository = match repository.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => repository,
    };
    let digest = match full.split_once('@') {
        Some((_, digest)) => digest.to_owned(),
        None => format!("sha256:{}", hex(&format!("manifest of {full}"))),
    };
    let tags = if full.contains('@') { vec![] } else { vec![full.clone()] };
    Image {
        id: format!("sha256:{}", hex(&full)),
        repo_tags: tags,
        repo_digests: vec![format!("{repository}@{digest}")],
        size: 1 << 20,
        ..Image::default()
    }
}

/// Sixty-four digits that follow from `text` (FNV-1a, four times over).
fn hex(text: &str) -> String {
    (0..4_u64)
        .map(|round| {
            let seed = 0xcbf2_9ce4_8422_2325 ^ round;
            let hash = text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            format!("{hash:016x}")
        })
        .collect()
}

fn named(spec: Option<ImageSpec>) -> Result<String, Status> {
    let name = spec.map(|spec| spec.image).filter(|name| !name.is_empty());
    name.ok_or_else(|| Status::invalid_argument("no image"))
}

impl FakeRuntime {
    fn images_named(&self, filter: Option<ImageFilter>) -> Vec<Image> {
        let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|name| !name.is_empty());
        self.world(|world| match &wanted {
            Some(name) => find(&world.images, name).cloned().into_iter().collect(),
            None => world.images.values().cloned().collect(),
        })
    }
}

#[tonic::async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        let pass = self.enter("ListImages", "").await?;
        let images = self.images_named(request.into_inner().filter);
        pass.leave(ListImagesResponse { images })
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<BoxStream<StreamImagesResponse>>, Status> {
        let pass = self.enter("StreamImages", "").await?;
        let images = self.images_named(request.into_inner().filter);
        pass.leave(chunks(images, |images| StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let name = named(request.into_inner().image)?;
        let pass = self.enter("ImageStatus", &name).await?;
        let image = self.world(|world| find(&world.images, &name).cloned());
        pass.leave(ImageStatusResponse { image, ..ImageStatusResponse::default() })
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<PullImageResponse>, Status> {
        let name = named(request.into_inner().image)?;
        let mut pass = self.enter("PullImage", &name).await?;
        let pull = self.script(|script| script.pulls.get(&full_name(&name)).cloned());
        let pull = pull.unwrap_or_default();
        pass.wait_until(self.now().saturating_add(nanos(pull.after))).await?;
        if let Some((code, message)) = pull.error {
            return Err(Status::new(code, message));
        }
        let image = image(&name);
        let image_ref = image.id.clone();
        self.world(|world| world.images.insert(image.id.clone(), image));
        pass.leave(PullImageResponse { image_ref })
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = named(request.into_inner().image)?;
        let pass = self.enter("RemoveImage", &name).await?;
        self.world(|world| {
            if let Some(id) = find(&world.images, &name).map(|image| image.id.clone()) {
                world.images.remove(&id);
            }
        });
        pass.leave(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Result<Response<ImageFsInfoResponse>, Status> {
        let pass = self.enter("ImageFsInfo", "").await?;
        let used = self.world(|world| world.images.values().map(|image| image.size).sum());
        let usage = |value| FilesystemUsage {
            timestamp: self.now(),
            fs_id: Some(FilesystemIdentifier { mountpoint: "/var/lib/fake".into() }),
            used_bytes: Some(UInt64Value { value }),
            inodes_used: Some(UInt64Value { value: 1 }),
        };
        pass.leave(ImageFsInfoResponse { image_filesystems: vec![usage(used)], container_filesystems: vec![usage(0)] })
    }
}
