//! Header blocks: name and value pairs, compressed with zlib over a dictionary that both sides know.
//!
//! All blocks of one direction are one zlib stream, so a block can be read only after all before it, and one that is
//! broken ends the connection. (SPDY/3.1 draft, 2.6.10.)

use std::io;

use bytes::{Buf as _, BufMut as _};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Most bytes of one block, in the clear.
pub(super) const MAX_BLOCK: usize = 64 << 10;
/// Most pairs of one block; Kubernetes sends three.
const MAX_PAIRS: u32 = 64;

/// The words of the dictionary, in order; each stands in it after its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
     accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
     content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
     if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
     proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
     user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
     keep-alive origin";

/// What follows the words, as it is.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
     Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
     Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
     Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
     application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=\
     iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        put_string(&mut bytes, word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Strings are far shorter than 4 GiB here.
fn put_string(into: &mut Vec<u8>, string: &[u8]) {
    into.put_u32(u32::try_from(string.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(string);
}

/// Name and value pairs; names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::streaming) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of that name, in lower case.
    pub(in crate::streaming) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn parse(mut block: &[u8]) -> Option<Self> {
        let string = |block: &mut &[u8]| {
            let length = usize::try_from(block.try_get_u32().ok()?).ok()?;
            let bytes = block.split_off(..length)?;
            String::from_utf8(bytes.to_vec()).ok()
        };
        let count = block.try_get_u32().ok().filter(|count| *count <= MAX_PAIRS)?;
        let pairs = (0..count).map(|_| Some((string(&mut block)?.to_ascii_lowercase(), string(&mut block)?)));
        pairs.collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
impl Headers {
    /// Bytes of all names and values.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// Reads blocks.
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// # Errors
    /// `InvalidData` when it is no block, or too large a one.
    pub(super) fn read(&mut self, mut block: &[u8]) -> io::Result<Headers> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("SPDY headers: {what}"));
        let mut clear = Vec::with_capacity(1 << 10);
        loop {
            let before = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress_vec(block, &mut clear, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| bad("another dictionary"))?;
                }
                Err(_) => return Err(bad("not compressed as they must be")),
                Ok(_) if clear.len() > MAX_BLOCK => return Err(bad("too long")),
                // All is taken, and nothing waits for room.
                Ok(_) if block.is_empty() && clear.len() < clear.capacity() => break,
                Ok(_) if clear.len() == clear.capacity() => clear.reserve(4 << 10),
                Ok(_) if before == (self.0.total_in(), self.0.total_out()) => return Err(bad("cut off")),
                Ok(_) => {}
            }
        }
        Headers::parse(&clear).ok_or_else(|| bad("not name and value pairs"))
    }
}

/// Writes blocks.
pub(super) struct Deflate(Compress);

impl Deflate {
    pub(super) fn new() -> io::Result<Self> {
        // A reply's block is empty: no compression is worth its memory.
        let mut compress = Compress::new(Compression::none(), true);
        compress.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        Ok(Self(compress))
    }

    pub(super) fn write(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let mut clear = Vec::new();
        clear.put_u32(u32::try_from(headers.0.len()).unwrap_or(u32::MAX));
        for (name, value) in &headers.0 {
            put_string(&mut clear, name.as_bytes());
            put_string(&mut clear, value.as_bytes());
        }
        let mut block = Vec::with_capacity(clear.len() + 64);
        let start = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            let rest = clear.get(taken..).unwrap_or_default();
            self.0.compress_vec(rest, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
            if block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(1 << 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_published_one() {
        // Its Adler-32 is the identifier that zlib puts into the stream's head.
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_direction_are_read_in_their_order() {
        let (mut deflate, mut inflate) = (Deflate::new().unwrap(), Inflate::new());
        let long = "x".repeat(9000);
        for headers in [
            Headers::default(),
            Headers::from([("streamtype", "stdin")]),
            Headers::from([("streamtype", "data"), ("port", "80"), ("requestid", long.as_str())]),
            Headers::default(),
        ] {
            let block = deflate.write(&headers).unwrap();
            assert_eq!(inflate.read(&block).unwrap(), headers);
        }
    }

    #[test]
    fn a_block_that_is_none_is_refused() {
        let block = |headers: &Headers| Deflate::new().unwrap().write(headers).unwrap();
        let check = |block: &[u8], what: &str| {
            let error = Inflate::new().read(block).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(what)), "{what}: {error:?}");
        };
        check(b"rubbish", "not compressed");
        check(&block(&Headers::from([("long", "x".repeat(MAX_BLOCK).as_str())])), "too long");
        check(&block(&Headers(vec![(String::new(), String::new()); MAX_PAIRS as usize + 1])), "pairs");
        check(&[], "pairs");
    }
}
