//! One layer's way from compressed bytes to a directory, on two threads:
//!
//! ```text
//!   source ──► [count, hash, keep the blob, decompress] ──channel──► [hash, unpack]
//! ```
//!
//! Nothing is committed before both digests and the size are verified. Hashing and inflating take about as long as
//! hashing and unpacking, so two threads take half the time of one. When unpacking fails, the source is still read
//! to its end: bytes that do not match their digest are the truer reason.

use std::fs::File;
use std::io::{self, BufRead, Read, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use tokio::sync::mpsc;

use crate::config::Limits;
use crate::digest::{Digest, Hasher};
use crate::error::{During as _, Error};
use crate::store::{Layer, Lease, Scratch, Store};
use crate::unpack::{Size, unpack};

/// Uncompressed bytes in one message between the threads, and how many may wait.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;
const INTAKE_BUFFER: usize = 128 << 10;
/// How far zstd may look back, as a power of two: 128 MiB, the format's recommended bound.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What the downloading side sends.
pub(crate) enum Feed {
    Bytes(bytes::Bytes),
    /// Everything has been sent. A channel that closes without this was cut.
    End,
}

/// Where the compressed bytes come from.
pub(crate) enum Source {
    /// A download. The bytes become a blob of the store.
    Stream(mpsc::Receiver<Feed>),
    /// A file outside `blobs` that becomes a blob if it is right.
    Adopt(Scratch),
    /// A blob that the store has; it is removed if it is not what its name says.
    Stored,
}

/// What is to be done with one layer.
pub(crate) struct Job {
    pub(crate) store: Store,
    /// The layer's name in errors: `layer sha256:…`.
    pub(crate) subject: String,
    /// Digest and size of the compressed bytes, where something states them.
    pub(crate) blob: Option<(Digest, u64)>,
    /// The digest of the uncompressed bytes.
    pub(crate) diff_id: Digest,
}

/// What the compressed bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) compression: Compression,
}

/// Told by the first bytes, since media types are wrong often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Does the work, blocking. Afterwards the store has the blob and the unpacked layer, or neither is new. The lease
/// is on the blob.
pub(crate) fn process(job: &Job, source: Source) -> Result<(Blob, Lease), Error> {
    let stored = matches!(source, Source::Stored);
    let result = attempt(job, source);
    if stored && let (Err(Error::Content { .. }), Some((digest, _))) = (&result, &job.blob) {
        job.store.inner.drop_blob(digest)?;
    }
    result
}

fn attempt(job: &Job, source: Source) -> Result<(Blob, Lease), Error> {
    let mut intake = Intake::open(job, source)?;
    let mut unpacked = None;
    let blob = if job.store.inner.has_layer(&job.diff_id) {
        let compression = intake.compression()?;
        intake.verify(job, compression)?
    } else {
        let target = Target::make(job)?;
        let (blob, size) = both(job, &mut intake, &target)?;
        unpacked = Some((target.scratch, Layer::new(job.diff_id, size.bytes, size.inodes)));
        blob
    };
    let lease = job.store.hold(vec![blob.digest]);
    if let Some(scratch) = intake.keep.take() {
        job.store.inner.add_blob(blob.digest, scratch, blob.size)?;
    }
    if let Some((scratch, layer)) = unpacked {
        job.store.inner.add_layer(scratch, layer)?;
    }
    Ok((blob, lease))
}

/// The directory that is being filled: `<scratch>/fs`.
struct Target {
    scratch: Scratch,
    fs: PathBuf,
}

impl Target {
    fn make(job: &Job) -> Result<Target, Error> {
        let scratch = job.store.inner.layout.scratch();
        let fs = scratch.path().join("fs");
        std::fs::create_dir_all(&fs).during("make directory", &fs)?;
        Ok(Target { scratch, fs })
    }
}

fn both(job: &Job, intake: &mut Intake, target: &Target) -> Result<(Blob, Size), Error> {
    let limits = &job.store.inner.config.limits;
    std::thread::scope(|scope| {
        let (pieces, received) = sync_channel(PIECES);
        let (give_back, returned) = channel();
        let unpacker = scope.spawn(move || unpack_pieces(job, received, give_back, target));
        let compression = intake.compression()?;
        let inflated = inflate(intake, compression, &pieces, &returned, limits, &job.subject);
        drop(pieces);
        let unpacked = unpacker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let result = match inflated {
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Broken(error)) => Err(error),
            Err(Stop::Unwanted) | Ok(()) => unpacked,
        };
        // A full disk or a limit is the reason, whatever the rest of the bytes may be.
        let result = match result {
            Err(error) if !matches!(error, Error::Content { .. }) => return Err(error),
            result => result,
        };
        let blob = intake.verify(job, compression)?;
        result.map(|size| (blob, size))
    })
}

/// Why decompression ended early.
enum Stop {
    /// The unpacking side gave up, and says why.
    Unwanted,
    /// The bytes make no sense to the decompressor.
    Broken(Error),
    /// The source or the store failed.
    Failed(Error),
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

fn inflate(
    intake: &mut Intake,
    compression: Compression,
    pieces: &SyncSender<Piece>,
    returned: &Receiver<Vec<u8>>,
    limits: &Limits,
    subject: &str,
) -> Result<(), Stop> {
    let mut total = 0;
    let result = {
        let mut plain: Box<dyn Read + '_> = match compression {
            Compression::None => Box::new(&mut *intake),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(&mut *intake)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut *intake)
                    .map_err(|error| Stop::Broken(Error::content(subject, error.to_string())))?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG)
                    .map_err(|error| Stop::Broken(Error::content(subject, error.to_string())))?;
                Box::new(decoder)
            }
        };
        loop {
            let mut piece = returned.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let got = match fill(&mut plain, &mut piece) {
                Ok(got) => got,
                Err(error) => break Err(error),
            };
            total += got as u64;
            if total > limits.layer_bytes {
                return Err(Stop::Failed(Error::Limit {
                    subject: subject.to_owned(),
                    limit: "layer_bytes",
                    value: limits.layer_bytes,
                }));
            }
            piece.truncate(got);
            let end = got < PIECE;
            if pieces.send(Piece::Bytes(piece)).is_err() {
                return Err(Stop::Unwanted);
            }
            if end {
                break Ok(());
            }
        }
    };
    match (intake.trouble.take(), result) {
        (Some(trouble), _) => Err(Stop::Failed(trouble)),
        (None, Err(error)) => {
            Err(Stop::Broken(Error::content(subject, format!("its {compression:?} stream is broken: {error}"))))
        }
        (None, Ok(())) => pieces.send(Piece::End).map_err(|_| Stop::Unwanted),
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn unpack_pieces(
    job: &Job,
    received: Receiver<Piece>,
    give_back: Sender<Vec<u8>>,
    target: &Target,
) -> Result<Size, Error> {
    let mut pieces = Pieces { received, give_back, current: Vec::new(), at: 0, ended: false, hasher: Hasher::new() };
    let size = unpack(&mut pieces, &target.fs, &job.subject, &job.store.inner.config.limits)?;
    io::copy(&mut pieces, &mut io::sink()).map_err(|error| Error::content(&job.subject, error.to_string()))?;
    match pieces.hasher.finish() {
        found if found == job.diff_id => Ok(size),
        found => Err(Error::content(
            &job.subject,
            format!("its uncompressed digest is {found}, the image's configuration says {}", job.diff_id),
        )),
    }
}

/// The unpacking side's stream; hashes what passes.
struct Pieces {
    received: Receiver<Piece>,
    give_back: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
    hasher: Hasher,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if self.ended {
                return Ok(0);
            }
            match self.received.recv() {
                Ok(Piece::Bytes(bytes)) => {
                    self.hasher.update(&bytes);
                    let used = std::mem::replace(&mut self.current, bytes);
                    // The other side may be done and need no buffers any more.
                    self.give_back.send(used).ok();
                    self.at = 0;
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut")),
            }
        }
        let got = into.len().min(self.current.len() - self.at);
        into[..got].copy_from_slice(&self.current[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

/// The compressed bytes on their way in: counted, hashed, kept.
struct Intake {
    from: From,
    /// The blob in the making, or the file to adopt; committed when all is verified.
    keep: Option<Scratch>,
    /// Where to write what arrives, for a blob in the making.
    write: Option<(File, PathBuf)>,
    hasher: Hasher,
    seen: u64,
    /// More than this is too much.
    expected: u64,
    subject: String,
    current: bytes::Bytes,
    /// The first failure that is not the fault of the bytes; `Read` can only hint at it.
    trouble: Option<Error>,
}

enum From {
    Stream(mpsc::Receiver<Feed>),
    File(File, PathBuf),
    Ended,
}

impl Intake {
    fn open(job: &Job, source: Source) -> Result<Intake, Error> {
        let layout = &job.store.inner.layout;
        let open = |path: PathBuf| -> Result<From, Error> {
            let file = File::open(&path).during("open", &path)?;
            Ok(From::File(file, path))
        };
        let (from, keep, write) = match (source, &job.blob) {
            (Source::Stream(stream), _) => {
                let scratch = layout.scratch();
                let path = scratch.path().to_owned();
                let file = File::create_new(&path).during("create", &path)?;
                (From::Stream(stream), Some(scratch), Some((file, path)))
            }
            (Source::Adopt(scratch), _) => (open(scratch.path().to_owned())?, Some(scratch), None),
            (Source::Stored, Some((digest, _))) => (open(layout.blob(digest))?, None, None),
            (Source::Stored, None) => unreachable!("a blob of the store has a digest"),
        };
        Ok(Intake {
            from,
            keep,
            write,
            hasher: Hasher::new(),
            seen: 0,
            expected: job.blob.map_or(job.store.inner.config.limits.blob_bytes, |(_, size)| size),
            subject: job.subject.clone(),
            current: bytes::Bytes::new(),
            trouble: None,
        })
    }

    /// The next bytes, hashed and kept; empty at the end.
    fn next(&mut self) -> Result<bytes::Bytes, Error> {
        let bytes = match &mut self.from {
            From::Ended => return Ok(bytes::Bytes::new()),
            From::Stream(stream) => match stream.blocking_recv() {
                Some(Feed::Bytes(bytes)) => bytes,
                Some(Feed::End) => bytes::Bytes::new(),
                None => {
                    return Err(Error::Cancelled { what: format!("fetching {}", self.subject) });
                }
            },
            From::File(file, path) => {
                let mut buffer = vec![0; INTAKE_BUFFER];
                let got = file.read(&mut buffer).during("read", path)?;
                buffer.truncate(got);
                buffer.into()
            }
        };
        if bytes.is_empty() {
            self.from = From::Ended;
            return Ok(bytes);
        }
        self.seen += bytes.len() as u64;
        if self.seen > self.expected {
            let reason = format!("it has more than the {} bytes that it should have", self.expected);
            return Err(Error::content(&self.subject, reason));
        }
        self.hasher.update(&bytes);
        if let Some((file, path)) = &mut self.write {
            file.write_all(&bytes).during("write", path)?;
        }
        Ok(bytes)
    }

    fn compression(&mut self) -> Result<Compression, Error> {
        while self.current.len() < 4 {
            let next = self.next()?;
            if next.is_empty() {
                break;
            }
            self.current = [&self.current[..], &next[..]].concat().into();
        }
        Ok(match &self.current[..] {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame, which chunked formats put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        })
    }

    /// Reads what is left, and holds the whole against what was promised.
    fn verify(&mut self, job: &Job, compression: Compression) -> Result<Blob, Error> {
        while !self.next()?.is_empty() {}
        let found = std::mem::take(&mut self.hasher).finish();
        let seen = self.seen;
        let wrong = match job.blob {
            Some((_, size)) if size != seen => format!("it has {seen} bytes instead of {size}"),
            Some((digest, _)) if digest != found => format!("its digest is {found}"),
            _ => {
                return Ok(Blob { digest: found, size: seen, compression });
            }
        };
        Err(Error::content(&self.subject, wrong))
    }
}

impl Read for Intake {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let got = available.len().min(into.len());
        into[..got].copy_from_slice(&available[..got]);
        self.consume(got);
        Ok(got)
    }
}

impl BufRead for Intake {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.is_empty() {
            match self.next() {
                Ok(bytes) => self.current = bytes,
                Err(error) => {
                    let hint = io::Error::other(error.to_string());
                    self.trouble = Some(error);
                    return Err(hint);
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        bytes::Buf::advance(&mut self.current, amount);
    }
}
