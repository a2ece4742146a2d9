//! The two layers of framing under every message, as plain functions over bytes: the trunk, which carries numbered
//! connections over one socket, and ttrpc's messages inside each of them.
//!
//! ```text
//! trunk:  connection u32 | length u32 | payload          big endian; a ttrpc message may span several payloads
//! ttrpc:  length u32 | stream u32 | kind u8 | flags u8 | data
//! ```

/// The longest data of a ttrpc message.
pub const MESSAGE_MAX: usize = 4 << 20;
/// The head of a ttrpc message.
const MESSAGE_HEAD: usize = 10;
/// The head of a trunk frame.
const TRUNK_HEAD: usize = 8;
/// The longest first piece of a message: the official library reads through a buffer of this size, and fails on a
/// frame that does not fit. The rest of a message goes in one piece, which it reads straight to its place.
const FIRST_PIECE: usize = 4096;

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than anything the protocol allows.
    #[error("a frame of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// A message of a kind that ttrpc does not have.
    #[error("message kind {0} is not known")]
    Kind(u8),
}

/// The kinds of ttrpc message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Begins a call.
    Request,
    /// Ends a call.
    Response,
    /// A part of a stream; NRI has none.
    Data,
}

/// A ttrpc message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which call it belongs to.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// As the kind has them; none for plain calls.
    pub flags: u8,
    /// What it carries.
    pub data: Vec<u8>,
}

/// Bytes that came and are not used up yet.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn left(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    fn number(&self, at: usize) -> Option<u32> {
        let bytes = self.left().get(at..at + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The body behind a head, once it is there as a whole.
    fn body(&mut self, head: usize, length: usize) -> Option<Vec<u8>> {
        let body = self.left().get(head..head + length)?.to_vec();
        self.used += head + length;
        Some(body)
    }
}

/// Takes a trunk apart.
#[derive(Debug, Default)]
pub struct Trunk(Buffer);

impl Trunk {
    /// Adds bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole frame: its connection and payload.
    ///
    /// # Errors
    /// When it says to be longer than any may be. Nothing after it can be read.
    pub fn next_frame(&mut self) -> Result<Option<(u32, Vec<u8>)>, FrameError> {
        let (Some(connection), Some(length)) = (self.0.number(0), self.0.number(4)) else { return Ok(None) };
        let length = length as usize;
        if length > MESSAGE_HEAD + MESSAGE_MAX {
            return Err(FrameError::TooLong(length));
        }
        Ok(self.0.body(TRUNK_HEAD, length).map(|payload| (connection, payload)))
    }
}

/// Takes the messages of one connection apart.
#[derive(Debug, Default)]
pub struct Messages(Buffer);

impl Messages {
    /// Adds a payload of the trunk.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When its head makes no sense. Nothing after it can be read.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let (Some(length), Some(stream)) = (self.0.number(0), self.0.number(4)) else { return Ok(None) };
        let &[kind, flags] = self.0.left().get(8..MESSAGE_HEAD).unwrap_or_default() else { return Ok(None) };
        let length = length as usize;
        if length > MESSAGE_MAX {
            return Err(FrameError::TooLong(length));
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Data,
            other => return Err(FrameError::Kind(other)),
        };
        Ok(self.0.body(MESSAGE_HEAD, length).map(|data| Message { stream, kind, flags, data }))
    }
}

/// A message in the frames of a connection, ready to be written.
///
/// # Errors
/// When the message is longer than the protocol allows.
pub fn encode(connection: u32, message: &Message) -> Result<Vec<u8>, FrameError> {
    if message.data.len() > MESSAGE_MAX {
        return Err(FrameError::TooLong(message.data.len()));
    }
    let mut whole = Vec::with_capacity(MESSAGE_HEAD + message.data.len());
    whole.extend((message.data.len() as u32).to_be_bytes());
    whole.extend(message.stream.to_be_bytes());
    whole.push(match message.kind {
        Kind::Request => 1,
        Kind::Response => 2,
        Kind::Data => 3,
    });
    whole.push(message.flags);
    whole.extend(&message.data);
    let (first, rest) = whole.split_at(whole.len().min(FIRST_PIECE));
    let mut out = Vec::with_capacity(whole.len() + 2 * TRUNK_HEAD);
    for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
        out.extend(connection.to_be_bytes());
        out.extend((piece.len() as u32).to_be_bytes());
        out.extend(piece);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let kind = prop_oneof![Just(Kind::Request), Just(Kind::Response), Just(Kind::Data)];
        let data = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            (4080usize..4110, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
            (8000usize..20_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        ];
        (any::<u32>(), kind, any::<u8>(), data).prop_map(|(stream, kind, flags, data)| Message {
            stream,
            kind,
            flags,
            data,
        })
    }

    /// What comes out of bytes that arrive in pieces of a size, by connection.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<(u32, Message)>, FrameError> {
        let mut trunk = Trunk::default();
        let mut connections = std::collections::BTreeMap::<u32, Messages>::new();
        let mut found = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            trunk.push(piece);
            while let Some((connection, payload)) = trunk.next_frame()? {
                assert!(payload.len() <= MESSAGE_HEAD + MESSAGE_MAX);
                let messages = connections.entry(connection).or_default();
                messages.push(&payload);
                while let Some(message) = messages.next_message()? {
                    found.push((connection, message));
                }
            }
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            sent in prop::collection::vec((1u32..4, message()), 0..6),
            piece in prop_oneof![1usize..30, 1000usize..9000],
        ) {
            let bytes: Vec<u8> =
                sent.iter().flat_map(|(connection, message)| encode(*connection, message).expect("short")).collect();
            prop_assert_eq!(read(&bytes, piece), Ok(sent));
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_take_no_more_than_they_are(
            bytes in prop::collection::vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>()], 0..400),
            piece in 1usize..50,
        ) {
            if let Ok(found) = read(&bytes, piece) {
                let total: usize = found.iter().map(|(_, message)| message.data.len()).sum();
                prop_assert!(total <= bytes.len());
            }
        }

        #[test]
        fn a_first_piece_fits_the_official_librarys_buffer(message in message()) {
            let bytes = encode(1, &message).expect("short");
            let mut trunk = Trunk::default();
            trunk.push(&bytes);
            let mut pieces = Vec::new();
            while let Some((_, payload)) = trunk.next_frame().expect("whole") {
                pieces.push(payload.len());
            }
            prop_assert!(pieces[0] <= FIRST_PIECE && pieces.len() <= 2, "{:?}", pieces);
        }
    }

    #[test]
    fn a_session_reads_alike_however_it_is_cut_and_its_messages_hold() {
        use crate::message::{ContainerRequest, CreateContainerResponse};

        fn same<T: prost::Message + Default + PartialEq + std::fmt::Debug>(data: &[u8]) {
            if let Ok(message) = T::decode(data) {
                assert_eq!(T::decode(message.encode_to_vec().as_slice()), Ok(message));
            }
        }
        podd_fuzz::run("nri_frames", |input| {
            let whole = read(input, input.len());
            assert_eq!(read(input, 7), whole);
            for (connection, message) in whole.into_iter().flatten() {
                same::<ContainerRequest>(&message.data);
                same::<CreateContainerResponse>(&message.data);
                let bytes = encode(connection, &message).expect("it was read");
                assert_eq!(read(&bytes, 5), Ok(vec![(connection, message)]));
            }
        });
    }

    #[test]
    fn the_head_is_laid_out_as_the_protocol_says() {
        let message = Message { stream: 3, kind: Kind::Request, flags: 0, data: vec![7] };
        let expected = [0, 0, 0, 2, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 3, 1, 0, 7];
        assert_eq!(encode(2, &message), Ok(expected.to_vec()));
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_it_is_waited_for() {
        let mut trunk = Trunk::default();
        trunk.push(&[0, 0, 0, 1, 0, 0x40, 0, 11]);
        assert_eq!(trunk.next_frame(), Err(FrameError::TooLong((4 << 20) + 11)));
        let mut messages = Messages::default();
        messages.push(&[0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0]);
        assert_eq!(messages.next_message(), Err(FrameError::TooLong((4 << 20) + 1)));
        let mut messages = Messages::default();
        messages.push(&[0, 0, 0, 0, 0, 0, 0, 1, 9, 0]);
        assert_eq!(messages.next_message(), Err(FrameError::Kind(9)));
        let long = Message { stream: 1, kind: Kind::Data, flags: 0, data: vec![0; MESSAGE_MAX + 1] };
        assert_eq!(encode(1, &long), Err(FrameError::TooLong(MESSAGE_MAX + 1)));
    }
}
