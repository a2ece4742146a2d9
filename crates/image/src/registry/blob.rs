//! Downloading a blob, through broken connections: each new one asks for the rest by `Range`.

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::{Failure, Session, Tries};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};

/// Takes the bytes in order. `false` means that no more are wanted.
pub(crate) trait Receiver: Send {
    fn receive(&mut self, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

impl Session {
    /// Hands `size` bytes of a blob to `receiver`, in order and without gaps. Their digest is not looked at here.
    pub(crate) async fn blob(&self, digest: &Digest, size: u64, receiver: &mut impl Receiver) -> Result<(), Error> {
        let action = format!("get blob {digest}");
        let path = format!("blobs/{digest}");
        let mut tries = Tries::new(&self.config);
        let mut resumes = 0;
        let mut done = 0;
        loop {
            let before = done;
            let failure = match self.stretch(&path, size, &mut done, receiver).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if done > before {
                tries.progressed();
            }
            resumes += 1;
            if resumes > self.config.limits.resumes {
                return Err(self.error(&action, failure));
            }
            tries.again(failure).await.map_err(|failure| self.error(&action, failure))?;
        }
    }

    /// One connection's worth. `Ok` when nothing more is to come.
    async fn stretch(
        &self,
        path: &str,
        size: u64,
        done: &mut u64,
        receiver: &mut impl Receiver,
    ) -> Result<(), Failure> {
        let from = (*done > 0).then_some(*done);
        let mut response = match self.request(path, "*/*", from).await {
            Err(failure) if from.is_some() && failure.kind == ErrorKind::Invalid => {
                return Err(too_short(*done, size));
            }
            response => response?,
        };
        let start = start_of(&response, *done)?;
        let length = response.content_length();
        if length.is_some_and(|length| start + length > size) {
            let reason = format!("the blob has {} bytes instead of {size}", start + length.unwrap_or_default());
            return Err(Failure::lasting(ErrorKind::Invalid, reason));
        }
        // A server without Range sends all over again.
        let mut skip = *done - start;
        while let Some(mut chunk) = response.chunk().await.map_err(|error| Failure::transport(&error))? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            let fresh = chunk.split_off(known);
            if fresh.is_empty() {
                continue;
            }
            *done += fresh.len() as u64;
            if *done > size {
                return Err(Failure::lasting(ErrorKind::Invalid, format!("the blob has more than {size} bytes")));
            }
            if !receiver.receive(fresh).await {
                return Ok(());
            }
        }
        match *done == size {
            true => Ok(()),
            // It ended in good order and is still too short: perhaps a proxy; one more connection will tell.
            false => Err(Failure { retry: Some(std::time::Duration::ZERO), ..too_short(*done, size) }),
        }
    }
}

fn too_short(done: u64, size: u64) -> Failure {
    Failure::lasting(ErrorKind::Invalid, format!("the blob ends after {done} of {size} bytes"))
}

/// Where in the blob an answer starts.
fn start_of(response: &Response, asked: u64) -> Result<u64, Failure> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
    match start {
        Some(start) if start <= asked => Ok(start),
        _ => Err(Failure::lasting(
            ErrorKind::Invalid,
            format!("the registry was asked for the blob from byte {asked} and answers {range:?}"),
        )),
    }
}
