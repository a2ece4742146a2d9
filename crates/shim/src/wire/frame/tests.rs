//! Frames cut at every byte, descriptors that stay with theirs.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::super::{Call, Event, Message, Request};
use super::*;

fn call(seq: u64, fds: u32) -> Call {
    Call { seq, fds, request: Request::Start { id: format!("container {seq}") } }
}

#[test]
fn frames_come_out_as_they_went_in_whatever_the_pieces() {
    let bytes: Vec<u8> = (0..5).flat_map(|seq| encode(&call(seq, 0)).unwrap()).collect();
    for size in [1, 2, 3, 7, 64, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.push(piece, []);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame.parse::<Call>().unwrap());
            }
        }
        assert_eq!(seen, (0..5).map(|seq| call(seq, 0)).collect::<Vec<_>>(), "pieces of {size}");
    }
}

#[test]
fn a_frame_past_the_bound_is_refused_before_it_is_read() {
    let mut decoder = Decoder::default();
    decoder.push(&u32::MAX.to_le_bytes(), []);
    assert_eq!(decoder.next_frame().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn descriptors_reach_the_frame_that_declares_them() {
    let (left, right) = UnixStream::pair().unwrap();
    let (a, b) = UnixStream::pair().unwrap();
    send_all(left.as_fd(), &encode(&call(1, 0)).unwrap(), &[]).unwrap();
    send_all(left.as_fd(), &encode(&call(2, 1)).unwrap(), &[a.as_fd()]).unwrap();
    send_all(left.as_fd(), &encode(&call(3, 0)).unwrap(), &[]).unwrap();
    send_all(left.as_fd(), &encode(&call(4, 2)).unwrap(), &[b.as_fd(), a.as_fd()]).unwrap();
    drop(left);
    let mut decoder = Decoder::default();
    let mut counts = Vec::new();
    loop {
        while let Some(frame) = decoder.next_frame().unwrap() {
            let call: Call = frame.parse().unwrap();
            counts.push((call.seq, decoder.take_fds(call.fds).unwrap().len()));
        }
        if receive(right.as_fd(), &mut decoder).unwrap() == 0 {
            break;
        }
    }
    assert_eq!(counts, [(1, 0), (2, 1), (3, 0), (4, 2)]);
}

#[test]
fn missing_descriptors_are_an_error() {
    assert!(Decoder::default().take_fds(1).is_err());
}

#[test]
fn an_event_of_a_newer_shim_reads_as_unknown() {
    let message: Message = serde_json::from_str(r#"{"event":{"event":"frozen","id":"x"}}"#).unwrap();
    assert_eq!(message, Message::Event(Event::Unknown));
}

#[test]
fn fields_of_a_newer_runtime_are_ignored() {
    let call: Call =
        serde_json::from_str(r#"{"seq":7,"colour":"red","request":{"start":{"id":"x","fast":true}}}"#).unwrap();
    assert_eq!(call.request, Request::Start { id: "x".into() });
}

/// Frames come out the same in whatever pieces they come; one that is too long ends the stream; a message that is
/// understood is written and understood as itself again. No more is kept than came.
#[test]
fn any_bytes_are_frames_or_an_error() {
    fn all(pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Vec<u8>>, bool) {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        let mut came = 0;
        for piece in pieces {
            decoder.push(piece, []);
            came += piece.len();
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame.0.to_vec()),
                    Ok(None) => break,
                    Err(_) => return (frames, false),
                }
            }
            assert!(decoder.bytes.len() <= came && decoder.taken == 0);
        }
        (frames, true)
    }
    fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(frame: &[u8]) {
        let Ok(value) = Frame(frame).parse::<T>() else { return };
        // A text of escapes grows when it is written, up to six times.
        let Ok(bytes) = encode(&value) else { return };
        let mut decoder = Decoder::default();
        decoder.push(&bytes, []);
        let again = decoder.next_frame().unwrap().expect("a whole frame").parse::<T>().unwrap();
        assert_eq!(again, value);
    }
    podd_fuzz::run("shim_frames", |input| {
        let (whole, good) = all(&mut std::iter::once(input));
        assert_eq!(all(&mut podd_fuzz::pieces(input)), (whole.clone(), good));
        for frame in whole.iter().map(Vec::as_slice).chain([input]) {
            same::<crate::wire::Call>(frame);
            same::<crate::wire::Message>(frame);
            same::<crate::wire::ContainerSpec>(frame);
        }
    });
}
