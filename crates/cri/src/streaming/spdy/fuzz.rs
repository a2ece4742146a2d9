//! Fuzz targets (`fuzz/`) of the frames and their headers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::frames::{Frame, Reader, Say, write};
use super::headers::{Deflate, Headers, Inflate, MAX_BLOCK};

/// Gives bytes in pieces, as a socket does; the second is what of a piece is left.
struct Pieces<'a, I>(I, &'a [u8]);

impl<'a, I: Iterator<Item = &'a [u8]> + Unpin> AsyncRead for Pieces<'a, I> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.1.is_empty() {
            self.1 = self.0.next().unwrap_or_default();
        }
        let (now, later) = self.1.split_at(self.1.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.1 = later;
        Poll::Ready(Ok(()))
    }
}

/// All frames, and whether it ended in good order.
async fn frames(source: impl AsyncRead + Unpin) -> (Vec<Frame>, bool) {
    let mut reader = Reader::new(source);
    let mut frames = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, true),
            Err(_) => return (frames, false),
        }
    }
}

/// What the client says is read the same in whatever pieces it comes, never takes more memory than it is long (headers: than
/// their bound), and what can be said back reads back as itself.
#[test]
fn any_bytes_are_frames_or_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    podd_fuzz::run("spdy", |input| {
        runtime.block_on(async {
            let (whole, good) = frames(input).await;
            let (apart, also_good) = frames(Pieces(podd_fuzz::pieces(input), &[])).await;
            assert_eq!((&whole, good), (&apart, also_good));
            let data: usize =
                whole.iter().map(|frame| if let Frame::Data { data, .. } = frame { data.len() } else { 0 }).sum();
            assert!(data <= input.len());
            for frame in &whole {
                if let Frame::Open { headers, .. } = frame {
                    assert!(headers.bytes() <= MAX_BLOCK);
                }
            }
            let (says, said) = mpsc::channel(whole.len() + 1);
            let mut expected = Vec::new();
            for frame in whole {
                let say = match &frame {
                    Frame::Data { stream, data } => Say::Data(*stream, data.clone()),
                    Frame::End { stream } => Say::End(*stream),
                    Frame::Ping(number) => Say::Ping(*number),
                    _ => continue,
                };
                says.send(say).await.unwrap();
                expected.push(frame);
            }
            drop(says);
            let mut written = io::Cursor::new(Vec::new());
            write(&mut written, said).await.unwrap();
            assert_eq!(frames(written.get_ref().as_slice()).await, (expected, true));
        });
    });
}

/// Any bytes are pairs or refused, compressed or not; pairs are compressed and read back as themselves, block after block.
#[test]
fn any_bytes_are_headers_or_an_error() {
    podd_fuzz::run("spdy_headers", |input| {
        if let Ok(headers) = Inflate::new().read(input) {
            assert!(headers.bytes() <= MAX_BLOCK);
        }
        let (mut deflate, mut inflate) = (Deflate::new().unwrap(), Inflate::new());
        for block in podd_fuzz::pieces(input).chain([input]) {
            if let Some(headers) = Headers::parse(block) {
                assert!(headers.bytes() <= block.len());
                let packed = deflate.write(&headers).unwrap();
                assert_eq!(inflate.read(&packed).unwrap(), headers);
            }
        }
    });
}
