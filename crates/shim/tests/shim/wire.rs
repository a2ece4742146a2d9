//! What comes over the socket that is not a call of today's protocol.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use podd_shim::wire::{Decoder, MAX_FRAME, Message, Reply, ShimErrorKind, encode, receive};
use serde_json::{Value, json};

use crate::harness::{Node, PATIENCE};

fn connect(node: &Node) -> UnixStream {
    let socket = UnixStream::connect(node.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ask(socket: &mut UnixStream, call: &Value) -> Reply {
    socket.write_all(&encode(call).unwrap()).unwrap();
    let mut decoder = Decoder::default();
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            match frame.parse().unwrap() {
                Message::Reply(reply) => return reply,
                Message::Event(event) => panic!("{event:?}"),
            }
        }
        assert_ne!(receive(std::os::fd::AsFd::as_fd(socket), &mut decoder).unwrap(), 0);
    }
}

#[test]
fn a_request_of_a_newer_runtime_is_refused_and_the_connection_goes_on() {
    let node = Node::new();
    let mut socket = connect(&node);
    let reply = ask(&mut socket, &json!({"seq": 7, "request": {"dance": {"how": "slowly"}}}));
    assert_eq!((reply.seq, reply.result.unwrap_err().kind), (7, ShimErrorKind::Unsupported));
    let reply = ask(&mut socket, &json!({"seq": 8, "request": "state", "urgent": true}));
    assert_eq!((reply.seq, reply.result.is_ok()), (8, true));
}

#[test]
fn versions_meet_at_the_newest_that_both_speak() {
    let node = Node::new();
    let mut socket = connect(&node);
    let hello =
        |version: u32, oldest: u32| json!({"seq": 1, "request": {"hello": {"version": version, "oldest": oldest}}});
    assert!(ask(&mut socket, &hello(9, 1)).result.is_ok());
    assert_eq!(ask(&mut socket, &hello(9, 8)).result.unwrap_err().kind, ShimErrorKind::Unsupported);
}

#[test]
fn what_is_no_frame_ends_the_connection_and_nothing_else() {
    let mut node = Node::new();
    let long = (MAX_FRAME as u32 + 1).to_le_bytes();
    let bodyless = [&4_u32.to_le_bytes()[..], b"nope"].concat();
    for bytes in [&long[..], &bodyless] {
        let mut socket = connect(&node);
        socket.write_all(bytes).unwrap();
        assert!(matches!(socket.read(&mut [0]), Ok(0) | Err(_)), "it is hung up on");
    }
    assert!(node.state().containers.is_empty());
}

#[test]
fn only_so_many_connections_are_held_and_others_are_hung_up_on() {
    let mut node = Node::new();
    let mut sockets: Vec<UnixStream> = (0..100).map(|_| connect(&node)).collect();
    assert!(node.state().containers.is_empty());
    let mut last = sockets.pop().unwrap();
    assert!(matches!(last.read(&mut [0]), Ok(0) | Err(_)), "it is one too many");
    drop((sockets, last));
    // Those that have gone make room.
    crate::harness::eventually(PATIENCE, || podd_shim::wire::Client::connect(&node.socket()).ok()).unwrap();
}
