//! Netlink (netlink(7)) over blocking sockets: requests in one datagram, an outcome for each.
//!
//! The kernel works a datagram off within the sender's call and queues all answers before that returns; the next part of
//! a dump is queued within the call that receives the one before. So nothing is ever waited for: an empty queue is the
//! end, and a missing answer is an error instead of a hang.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkSerializable as _};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// rtnetlink.
pub(crate) const ROUTE: u32 = 0;
/// sock_diag.
pub(crate) const SOCK_DIAG: u32 = 4;
/// nfnetlink.
pub(crate) const NETFILTER: u32 = 12;

const HEADER: usize = 16;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
/// The kernel fills dumps up to 32 KiB at a time.
const BUFFER: usize = 64 << 10;
/// How often a dump that met a change is begun again.
const DUMP_ATTEMPTS: usize = 8;

/// A message without its header's lengths and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn route(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self { kind: message.message_type(), flags, body }
    }
}

/// A message of the kernel.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
}

/// A netlink socket, in the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in a network namespace, or in this thread's.
    pub(crate) fn open(protocol: u32, netns: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let fd = podd_sys::namespace::netlink_socket(protocol, netns)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends requests together, acknowledged where their flags ask for it; each gets its own outcome, and one's failure does not keep the next from being done (but
    /// in a transaction of nftables).
    ///
    /// The outer error is that of the sockets, or of a transaction as a whole.
    pub(crate) fn send(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.begin(requests, 0)?;
        let mut outcomes: Vec<Option<io::Result<()>>> = requests.iter().map(|_| None).collect();
        while let Some(length) = self.receive()? {
            for message in messages(&self.buffer[..length]) {
                let slot = outcomes.get_mut(message.sequence.wrapping_sub(first) as usize);
                if let (Some(slot), TYPE_ERROR) = (slot, message.kind) {
                    *slot = Some(errno_of(message.body));
                }
            }
        }
        let wanted = requests.iter().map(|request| request.flags & NLM_F_ACK != 0);
        Ok(outcomes
            .into_iter()
            .zip(wanted)
            .map(|(outcome, wanted)| match outcome {
                Some(outcome) => outcome,
                None if wanted => Err(io::Error::other("the kernel gave no answer")),
                None => Ok(()),
            })
            .collect())
    }

    /// Asks for one thing.
    pub(crate) fn get(&mut self, request: Request) -> io::Result<Answer> {
        let first = self.begin(&[request], 0)?;
        let mut found = Err(io::Error::other("the kernel gave no answer"));
        while let Some(length) = self.receive()? {
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == first) {
                match message.kind {
                    TYPE_ERROR => errno_of(message.body)?,
                    _ => found = Ok(Answer { body: message.body.to_vec() }),
                }
            }
        }
        found
    }

    /// Asks for all of a kind.
    pub(crate) fn dump(&mut self, request: &Request) -> io::Result<Vec<Answer>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(request)? {
                return Ok(found);
            }
        }
        Err(io::Error::from(Errno::INTR))
    }

    /// None when what was dumped changed meanwhile.
    fn dump_once(&mut self, request: &Request) -> io::Result<Option<Vec<Answer>>> {
        let first = self.begin(std::slice::from_ref(request), NLM_F_DUMP)?;
        let (mut found, mut whole, mut done) = (Vec::new(), true, false);
        while let Some(length) = self.receive()? {
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == first) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    TYPE_ERROR => errno_of(message.body)?,
                    TYPE_DONE => {
                        errno_of(message.body)?;
                        done = true;
                    }
                    _ => found.push(Answer { body: message.body.to_vec() }),
                }
            }
        }
        if !done {
            return Err(io::Error::other("the kernel's answer has no end"));
        }
        Ok(whole.then_some(found))
    }

    /// Sends; the number of the first request.
    fn begin(&mut self, requests: &[Request], flags: u16) -> io::Result<u32> {
        let first = self.sequence;
        let mut bytes = Vec::with_capacity(requests.iter().map(|request| HEADER + request.body.len() + 4).sum());
        for request in requests {
            let length = (HEADER + request.body.len()) as u32;
            bytes.extend(length.to_ne_bytes());
            bytes.extend(request.kind.to_ne_bytes());
            bytes.extend((request.flags | flags | NLM_F_REQUEST).to_ne_bytes());
            bytes.extend(self.sequence.to_ne_bytes());
            bytes.extend(0_u32.to_ne_bytes());
            bytes.extend(&request.body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            self.sequence = self.sequence.wrapping_add(1);
        }
        send(&self.fd, &bytes, SendFlags::empty())?;
        Ok(first)
    }

    fn receive(&mut self) -> io::Result<Option<usize>> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => return Ok(Some(length)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        let message = Message { kind: half(4), flags: half(6), sequence: word(8), body: bytes.get(HEADER..length)? };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// What an error message, or the end of a dump, says.
fn errno_of(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

/// The errno of an error, if it has one.
pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// A sequence of attributes (netlink(7), nlattr), in the making.
#[derive(Debug, Default, Clone)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

const NESTED: u16 = 1 << 15;

impl Attributes {
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("an attribute is kept below 64 KiB by whoever makes it");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number as nfnetlink wants it, in network byte order.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// The attributes in a message, without the flags of their kinds.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute of a message.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let inner = Attributes::default().text(1, "ab").number(2, 7);
        let bytes = Attributes::default().nest(4, inner).bytes(5, &[1]).0;
        assert_eq!(bytes.len() % 4, 0);
        let nested = attribute(&bytes, 4).unwrap();
        assert_eq!((attribute(nested, 1), attribute(nested, 2)), (Some(&b"ab\0"[..]), Some(&[0, 0, 0, 7][..])));
        assert_eq!((attribute(&bytes, 5), attribute(&bytes, 6)), (Some(&[1][..]), None));
    }

    #[test]
    fn what_is_cut_off_is_the_end() {
        let bytes = Attributes::default().text(1, "abcdef").0;
        for length in 0..bytes.len() - 1 {
            assert_eq!(attributes(&bytes[..length]).count(), 0, "{length}");
        }
        assert_eq!(messages(&[0; 16]).count(), 0, "a message shorter than its header");
        let mut message = [0; 16];
        message[0] = 20;
        assert_eq!(messages(&message).count(), 0);
    }

    #[test]
    fn each_request_has_its_own_outcome() {
        let mut socket = Socket::open(ROUTE, None).unwrap();
        let flags = NLM_F_ACK;
        let bad = Request { kind: 9999, flags, body: vec![] };
        let gone = crate::links::delete_link("no-such-link").request;
        let outcomes = socket.send(&[gone.clone(), bad, gone]).unwrap();
        let errnos: Vec<_> = outcomes.iter().map(|outcome| errno(outcome.as_ref().unwrap_err())).collect();
        assert_eq!(errnos, [Some(Errno::NODEV), Some(Errno::OPNOTSUPP), Some(Errno::NODEV)]);
        assert!(socket.send(&[]).unwrap().is_empty());
        assert!(!socket.dump(&crate::links::all_links()).unwrap().is_empty());
    }
}
