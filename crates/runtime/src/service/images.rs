//! CRI's image service.

use std::sync::Arc;

use podd_cri::ImageService;
use podd_cri::lists::chunks;
use podd_cri::v1::*;
use tonic::codegen::BoxStream;
use tonic::{Request, Response};

use super::Answer;
use crate::engine::{Runtime, blocking};
use crate::error::status;

#[tonic::async_trait]
impl ImageService for Runtime {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let spec = request.into_inner().filter.and_then(|filter| filter.image);
        let images = self.engine.list_images(spec.as_ref()).map_err(status)?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn stream_images(&self, request: Request<StreamImagesRequest>) -> Answer<BoxStream<StreamImagesResponse>> {
        let spec = request.into_inner().filter.and_then(|filter| filter.image);
        let images = self.engine.list_images(spec.as_ref()).map_err(status)?;
        Ok(Response::new(chunks(images, |images| StreamImagesResponse { images })))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        self.engine.image_status(image.as_ref(), verbose).map(Response::new).map_err(status)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let PullImageRequest { image, auth, .. } = request.into_inner();
        // Not as a whole: a pull that nobody waits for any more is given up, and loses nothing that was fetched.
        let image_ref = Arc::clone(&self.engine).pull_image(image, auth).await.map_err(status)?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let spec = request.into_inner().image;
        whole!(self, engine => engine.remove_image(spec).await);
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let engine = Arc::clone(&self.engine);
        Ok(Response::new(blocking(move || engine.image_fs_info()).await))
    }
}
