//! A fuzz target (`fuzz/`) of the channels.

use super::*;

/// Any message is bytes of a stream, its end or an error; the first two are written as the same message again. What comes
/// over the error and resize channels is read, and an outcome that is written again means the same.
#[test]
fn any_message_is_a_frame_or_an_error() {
    podd_fuzz::run("channels", |input| {
        let message = Bytes::copy_from_slice(input);
        for protocol in &PROTOCOLS {
            let written = match protocol.decode(message.clone()) {
                Ok(Frame::Data(channel, data)) => {
                    assert!(data.len() < input.len());
                    Some(protocol.data(channel, &data))
                }
                Ok(Frame::Close(channel)) => {
                    assert!(protocol.close);
                    protocol.close(channel)
                }
                Err(_) => continue,
            };
            let again = match written.expect("what can be read can be written") {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
            };
            assert_eq!(protocol.decode(again.clone()), protocol.decode(message.clone()), "{}", protocol.name);
            // Of an end, only the channel counts.
            assert!(again == message || protocol.close && again == message[..2], "{}", protocol.name);
        }
        assert!(Size::parse(input).count() <= input.len());
        let outcome = Outcome::parse(input);
        assert_eq!(Outcome::parse(outcome.to_json().as_bytes()), outcome);
    });
}
