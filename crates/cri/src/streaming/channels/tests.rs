//! The codec both ways, and the words of Kubernetes.

use super::*;

fn bytes(message: &Message) -> Bytes {
    match message {
        Message::Binary(bytes) => bytes.clone(),
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
    }
}

#[test]
fn every_protocol_reads_back_what_it_writes_on_every_channel() {
    for protocol in &PROTOCOLS {
        for channel in Channel::ALL {
            for data in [&b""[..], b"x", b"\xff\x00 any bytes \n"] {
                let message = protocol.data(channel, data);
                assert_eq!(matches!(message, Message::Text(_)), protocol.base64);
                let frame = protocol.decode(bytes(&message)).unwrap();
                assert_eq!(frame, Frame::Data(channel, Bytes::copy_from_slice(data)));
            }
        }
    }
}

#[test]
fn channels_have_the_numbers_of_kubernetes() {
    let first = |c| bytes(&PROTOCOLS[0].data(c, b"x"))[0];
    assert_eq!(Channel::ALL.map(first), [0, 1, 2, 3, 4]);
    assert_eq!(PROTOCOLS[2].data(Channel::Stdout, b"hi"), Message::Text("1aGk=".into()));
}

#[test]
fn only_version_5_can_end_one_stream() {
    for protocol in &PROTOCOLS {
        let close = protocol.close(Channel::Stdin);
        let expected = (protocol.name == "v5.channel.k8s.io").then(|| Message::Binary(Bytes::from_static(&[255, 0])));
        assert_eq!(close, expected, "{}", protocol.name);
    }
    let decode = |protocol: usize, message: &'static [u8]| PROTOCOLS[protocol].decode(Bytes::from_static(message));
    assert_eq!(decode(0, &[255, 0]), Ok(Frame::Close(Channel::Stdin)));
    assert_eq!(decode(0, &[255, 9]), Err(FrameError::Channel(9)));
    assert_eq!(decode(0, &[255]), Err(FrameError::Channel(255)));
    assert_eq!(decode(1, &[255, 0]), Err(FrameError::Channel(255)));
}

#[test]
fn messages_that_break_the_protocol_are_errors() {
    let decode = |protocol: usize, message: &'static [u8]| PROTOCOLS[protocol].decode(Bytes::from_static(message));
    assert_eq!(decode(1, b""), Err(FrameError::Empty));
    assert_eq!(decode(1, &[5, 1]), Err(FrameError::Channel(5)));
    assert_eq!(decode(2, b"5aGk="), Err(FrameError::Channel(b'5')));
    assert_eq!(decode(2, b"\x01aGk="), Err(FrameError::Channel(1)));
    assert_eq!(decode(2, b"1not base64"), Err(FrameError::Base64));
}

#[test]
fn the_best_common_protocol_is_taken_whatever_the_order() {
    let best = |offered: &[&str]| Protocol::negotiate(offered.iter().copied()).map(|protocol| protocol.name);
    assert_eq!(best(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Some("v5.channel.k8s.io"));
    assert_eq!(best(&["base64.channel.k8s.io", "other"]), Some("base64.channel.k8s.io"));
    assert_eq!(best(&[]), Some("channel.k8s.io"));
    assert_eq!(best(&["chat"]), None);
}

#[test]
fn outcomes_are_told_as_kubernetes_tells_them() {
    assert_eq!(Outcome::Success.to_json(), r#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(
        Outcome::Exit(3).to_json(),
        concat!(
            r#"{"metadata":{},"status":"Failure","#,
            r#""message":"command terminated with non-zero exit code: exit code 3","#,
            r#""reason":"NonZeroExitCode","#,
            r#""details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        )
    );
    let gone = Failure::from(&tonic::Status::not_found("no container x"));
    for outcome in [Outcome::Success, Outcome::Exit(137), Outcome::Failure(gone)] {
        assert_eq!(Outcome::parse(outcome.to_json().as_bytes()), outcome);
    }
}

#[test]
fn an_outcome_in_bare_text_is_a_failure_with_that_message() {
    let Outcome::Failure(failure) = Outcome::parse(b"it broke") else { panic!("no failure") };
    assert_eq!(failure.message, "it broke");
    assert_eq!(PROTOCOLS[3].outcome(&Outcome::Success), None);
}

#[test]
fn sizes_come_in_go_s_spelling_and_several_at_a_time() {
    let sizes: Vec<_> = Size::parse(
        br#"{"Width":80,"Height":24}
        {"width":1,"height":2} nonsense"#,
    )
    .collect();
    assert_eq!(sizes, [Size { width: 80, height: 24 }, Size { width: 1, height: 2 }]);
    assert_eq!(Size { width: 80, height: 24 }.to_json(), r#"{"Width":80,"Height":24}"#);
    assert_eq!(Size::parse(br#"{"Width":-1}"#).count(), 0);
}
