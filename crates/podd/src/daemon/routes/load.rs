//! Loading an archive that the client sends: nothing but the connection is shared with it.

use std::io::{self, Read};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures::{StreamExt as _, stream};
use podd_runtime::Runtime;
use serde_json::json;
use tokio::sync::mpsc;

use super::{failure, lines};

/// Pieces of the archive between the connection and the store; a piece is what one read of the socket gives, at most some
/// hundred KiB.
const PIECES: usize = 4;

pub(super) async fn load(State(runtime): State<Arc<Runtime>>, body: Body) -> Response {
    let (sender, receiver) = mpsc::channel(PIECES);
    let archive = Archive { pieces: receiver, piece: Bytes::new(), ended: false };
    let work = async move {
        match runtime.images().load(archive).await {
            Ok(loaded) => json!({"loaded": loaded.iter().flat_map(names).collect::<Vec<String>>()}),
            Err(error) => failure(error),
        }
    };
    // Both are polled with the answer's body, and end with it when the client goes away. The line goes out as soon as
    // the store is done, which for a bad archive is before it was sent as a whole.
    lines(stream::select(stream::once(work).map(Some), stream::once(feed(body, sender)).map(|()| None)))
}

/// Passes the body on, and an empty piece at its end. What nobody wants to have any more is read and dropped: a client that
/// could not send would not read the answer either.
async fn feed(body: Body, archive: mpsc::Sender<io::Result<Bytes>>) {
    let mut body = body.into_data_stream();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) if piece.is_empty() => {}
            Ok(piece) => drop(archive.send(Ok(piece)).await),
            Err(error) => return drop(archive.send(Err(io::Error::other(error))).await),
        }
    }
    drop(archive.send(Ok(Bytes::new())).await);
}

/// The archive as the store reads it, on a thread that may block.
struct Archive {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            // A channel that closes without the empty piece is a client that went away, not the archive's end.
            let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the client went away");
            self.piece = self.pieces.blocking_recv().ok_or_else(gone)??;
            self.ended = self.piece.is_empty();
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// The names that an image got, or its id.
fn names(loaded: &podd_image::Loaded) -> Vec<String> {
    if loaded.names.is_empty() {
        return vec![loaded.image.id.to_string()];
    }
    loaded.names.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: Vec<io::Result<Bytes>>) -> io::Result<String> {
        let (sender, receiver) = mpsc::channel(PIECES);
        for piece in pieces {
            sender.try_send(piece).unwrap();
        }
        drop(sender);
        let mut text = String::new();
        Archive { pieces: receiver, piece: Bytes::new(), ended: false }.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn an_archive_ends_where_its_client_says_and_not_where_it_goes_away() {
        let piece = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        assert_eq!(read(vec![piece("ab"), piece("c"), piece("")]).unwrap(), "abc");
        assert_eq!(read(vec![piece("ab")]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(vec![piece("ab"), Err(io::Error::other("cut"))]).unwrap_err().to_string(), "cut");
    }
}
