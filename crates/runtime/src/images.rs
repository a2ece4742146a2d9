//! The image calls: CRI's words for the image store's.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use podd_cri::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image as CriImage, ImageFsInfoResponse, ImageSpec,
    ImageStatusResponse, Int64Value, UInt64Value,
};
use podd_image::{Credentials, Error as ImageError, ErrorKind, Image, Reference};

use crate::clock::now;
use crate::engine::Engine;
use crate::error::{Context, CriError, Result};

impl Engine {
    /// All images, or the one that the filter names.
    pub(crate) fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<CriImage>> {
        match filter.map(|spec| spec.image.as_str()).filter(|name| !name.is_empty()) {
            None => Ok(self.images.list().iter().map(|image| to_cri(image)).collect()),
            Some(name) => Ok(self.find_image(name)?.iter().map(|image| to_cri(image)).collect()),
        }
    }

    /// One image; an empty answer when it is absent.
    pub(crate) fn image_status(&self, spec: Option<&ImageSpec>, verbose: bool) -> Result<ImageStatusResponse> {
        let name = named(spec)?;
        let Some(image) = self.find_image(name)? else { return Ok(ImageStatusResponse::default()) };
        let mut response = ImageStatusResponse { image: Some(to_cri(&image)), ..Default::default() };
        if verbose {
            let config = serde_json::to_value(&*image.config).context(|| format!("describe image {name}"))?;
            let info = serde_json::json!({ "imageSpec": config, "manifest": image.manifest.to_string() });
            response.info.insert("info".to_owned(), info.to_string());
        }
        Ok(response)
    }

    /// Fetches an image; answers with its id.
    pub(crate) async fn pull_image(
        self: Arc<Self>,
        spec: Option<ImageSpec>,
        auth: Option<AuthConfig>,
    ) -> Result<String> {
        let name = named(spec.as_ref())?;
        let reference = Reference::parse(name).map_err(|error| refused(error.into()))?;
        let credentials = credentials(auth.unwrap_or_default(), reference.registry())?;
        let image = self.images.pull(&reference, &credentials, None).await.map_err(refused)?;
        tracing::info!(image = name, id = %image.id, "image pulled");
        Ok(image.id.to_string())
    }

    /// Removes an image with all its names; nothing to do when it is absent.
    pub(crate) async fn remove_image(self: Arc<Self>, spec: Option<ImageSpec>) -> Result<()> {
        let name = named(spec.as_ref())?;
        match self.images.remove(name).await {
            Ok(removed) => {
                tracing::info!(image = name, freed = removed.freed, "image removed");
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }

    /// Removes the layers that images have left behind for a container that is gone now, too.
    pub(crate) async fn collect_layers(&self, images: impl IntoIterator<Item = &String>) {
        if !images.into_iter().any(|image| matches!(self.find_image(image), Ok(None))) {
            return;
        }
        match self.images.collect().await {
            Ok(freed) => tracing::debug!(freed, "layers of a removed image collected"),
            Err(error) => tracing::warn!(%error, "could not collect the layers of a removed image"),
        }
    }

    /// How much images and writable layers take, each where it lies. A kubelet takes the two for one file system when
    /// both have the same mount point.
    pub(crate) fn image_fs_info(&self) -> ImageFsInfoResponse {
        let (images, containers) = (self.images.root(), self.paths.containers());
        let timestamp = now();
        let entry = |place: &Path, bytes, inodes| FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: place.display().to_string() }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: Some(UInt64Value { value: inodes }),
        };
        let layers = self.registry.containers().into_iter().map(|container| self.writable_layer(&container, timestamp));
        let (bytes, inodes) = layers.fold((0, 0), |(bytes, inodes), layer| {
            let value = |of: Option<UInt64Value>| of.map_or(0, |of| of.value);
            (bytes + value(layer.used_bytes), inodes + value(layer.inodes_used))
        });
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let place = if device(images) == device(&containers) { images } else { &containers };
        let usage = self.images.usage();
        ImageFsInfoResponse {
            image_filesystems: vec![entry(images, usage.bytes, usage.inodes)],
            container_filesystems: vec![entry(place, bytes, inodes)],
        }
    }

    fn find_image(&self, name: &str) -> Result<Option<Arc<Image>>> {
        match self.images.get(name) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }
}

fn named(spec: Option<&ImageSpec>) -> Result<&str> {
    spec.map(|spec| spec.image.as_str())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| CriError::invalid("the request names no image"))
}

fn to_cri(image: &Image) -> CriImage {
    CriImage {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        // No user at all is root, and root is a number.
        uid: match (image.uid, image.username.as_str()) {
            (Some(value), _) => Some(Int64Value { value }),
            (None, "") => Some(Int64Value { value: 0 }),
            (None, _) => None,
        },
        username: image.username.clone(),
        spec: Some(ImageSpec { image: image.repo_tags.first().cloned().unwrap_or_default(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// Whichever kind of credentials the caller has for the registry. Those for another server are not shown to this one.
fn credentials(auth: AuthConfig, registry: &str) -> Result<Credentials> {
    if !auth.server_address.is_empty() && !podd_image::same_registry(&auth.server_address, registry) {
        tracing::debug!(registry, server = auth.server_address, "credentials for another server are left out");
        return Ok(Credentials::Anonymous);
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::Bearer(auth.registry_token));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::Identity(auth.identity_token));
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Basic { username: auth.username, password: auth.password });
    }
    if !auth.auth.is_empty() {
        return Credentials::from_auth(&auth.auth)
            .ok_or_else(|| CriError::invalid("auth of the image pull is not base64 of user:password"));
    }
    Ok(Credentials::Anonymous)
}

/// The store's refusals by their kind. The source says all there is to say.
pub(crate) fn refused(error: ImageError) -> CriError {
    let kind = error.kind();
    let text = CriError::internal("", error).chain();
    let text = text.strip_prefix(": ").unwrap_or(&text).to_owned();
    match kind {
        ErrorKind::NotFound => CriError::NoImage(text),
        ErrorKind::Invalid => CriError::Invalid(text),
        ErrorKind::Exhausted => CriError::Exhausted(text),
        ErrorKind::Unauthorized => CriError::Unauthorized(text),
        ErrorKind::Unavailable => CriError::Unreachable(text),
        ErrorKind::Internal => CriError::Broken(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_in_the_form_they_come() {
        let auth = |change: fn(&mut AuthConfig)| {
            let mut auth = AuthConfig::default();
            change(&mut auth);
            credentials(auth, "docker.io")
        };
        let basic = || Credentials::Basic { username: "user".into(), password: "pass".into() };
        assert_eq!(auth(|_| {}).expect("none"), Credentials::Anonymous);
        assert_eq!(auth(|a| a.registry_token = "t".into()).expect("token"), Credentials::Bearer("t".into()));
        assert_eq!(auth(|a| a.identity_token = "t".into()).expect("token"), Credentials::Identity("t".into()));
        let named = auth(|a| (a.username, a.password) = ("user".into(), "pass".into()));
        assert_eq!(named.expect("basic"), basic());
        assert_eq!(auth(|a| a.auth = "dXNlcjpwYXNz".into()).expect("basic"), basic());
        assert!(auth(|a| a.auth = "%%".into()).is_err());
        for (server, kept) in [("https://index.docker.io/v1/", true), ("docker.io", true), ("r.io", false)] {
            let taken = credentials(
                AuthConfig { registry_token: "t".into(), server_address: server.into(), ..Default::default() },
                "docker.io",
            );
            let expected = if kept { Credentials::Bearer("t".into()) } else { Credentials::Anonymous };
            assert_eq!(taken.expect(server), expected, "{server}");
        }
    }

    #[test]
    fn an_absent_image_is_not_found() {
        let error = refused(ImageError::NoImage { name: "nginx".into() });
        assert_eq!(crate::error::status(error).code(), tonic::Code::NotFound);
    }
}
