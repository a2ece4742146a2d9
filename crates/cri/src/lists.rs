//! Lists as streams: the six calls that answer in chunks, so that no list ever outgrows a message.

use futures::stream;
use prost::Message;
use tonic::codegen::BoxStream;

/// The most items of a chunk.
pub const CHUNK_ITEMS: usize = 256;
/// A chunk is full with the item that makes it this many bytes; only an item of its own is ever longer.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The items in chunks and in their order, each once; then the end. Nothing is encoded before the client reads, so a
/// slow one costs no more than the list itself.
pub fn chunks<T: Message + 'static, R: Send + 'static>(
    items: Vec<T>,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> BoxStream<R> {
    let mut rest = items.into_iter().peekable();
    Box::pin(stream::iter(std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_ITEMS {
            let fits = |item: &T| chunk.is_empty() || bytes + item.encoded_len() <= CHUNK_BYTES;
            let Some(item) = rest.next_if(fits) else { break };
            bytes += item.encoded_len();
            chunk.push(item);
        }
        (!chunk.is_empty()).then(|| Ok(wrap(chunk)))
    })))
}

/// How long a message is on the wire, in bytes.
pub fn encoded_len(message: &impl Message) -> usize {
    message.encoded_len()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;
    use crate::v1::{Image, StreamImagesResponse};

    async fn check(sizes: &[usize], expected: &[usize]) {
        let image =
            |(at, size): (usize, &usize)| Image { id: format!("{at:04}{}", "x".repeat(*size)), ..Image::default() };
        let items: Vec<Image> = sizes.iter().enumerate().map(image).collect();
        let stream = chunks(items.clone(), |images| StreamImagesResponse { images });
        let found: Vec<Vec<Image>> = stream.map(|chunk| chunk.expect("a chunk").images).collect().await;
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        assert_eq!(found.concat(), items, "each once and in order");
    }

    #[tokio::test]
    async fn every_item_comes_once_in_chunks_that_are_full_by_count_or_by_size() {
        check(&[], &[]).await;
        check(&[0], &[1]).await;
        check(&[0; CHUNK_ITEMS], &[CHUNK_ITEMS]).await;
        check(&[0; CHUNK_ITEMS + 1], &[CHUNK_ITEMS, 1]).await;
        check(&[700_000, 700_000, 10, 10], &[1, 3]).await;
        check(&[10, CHUNK_BYTES * 3, 10], &[1, 1, 1]).await;
    }
}
