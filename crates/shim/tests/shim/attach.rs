//! Joining the streams of a container that runs.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use podd_shim::wire::{Client, Request, Response, ShimErrorKind, Stdio};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::harness::{Node, refusal};

/// Our ends of what was joined.
#[derive(Debug)]
struct Joined {
    stdout: File,
    stderr: File,
    stdin: Option<File>,
}

fn attach(client: &mut Client, id: &str, stdin: bool) -> Result<Joined, podd_shim::wire::ClientError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((stdout, out), (stderr, err)) = (pipe(), pipe());
    let request = Request::Attach { id: id.into(), outputs: vec![Stdio::Stdout, Stdio::Stderr], stdin };
    let (response, fds) = client.call_with_fds(request, &[out.as_fd(), err.as_fd()])?;
    assert_eq!(response, Response::Attached);
    let stdin = fds.into_iter().next().map(File::from);
    Ok(Joined { stdout: stdout.into(), stderr: stderr.into(), stdin })
}

fn all(file: &mut File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn who_is_attached_hears_what_comes_and_the_log_has_it_too() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "read first; echo out $first; read second; echo err $second >&2; read rest; exit 3");
    spec.stdin = true;
    node.run(spec);
    let mut early = attach(&mut node.client, "a", true).unwrap();
    let mut stdin = early.stdin.take().unwrap();
    stdin.write_all(b"1\n").unwrap();
    let mut head = [0; 6];
    early.stdout.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"out 1\n");
    let mut late = attach(&mut node.client, "a", false).unwrap();
    assert!(late.stdin.is_none());
    stdin.write_all(b"2\n3\n").unwrap();
    assert_eq!(node.exit("a").code, 3);
    // Both hear the end, and only the first what was said before the second came.
    assert_eq!((all(&mut early.stdout), all(&mut early.stderr)), (String::new(), "err 2\n".into()));
    assert_eq!((all(&mut late.stdout), all(&mut late.stderr)), (String::new(), "err 2\n".into()));
    assert_eq!(node.texts("a"), ["out 1", "err 2"]);
    assert_eq!(refusal(attach(&mut node.client, "a", false)).kind, ShimErrorKind::WrongState);
}

#[test]
fn a_reader_that_does_not_keep_up_is_cut_off_and_delays_nobody() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "read go; seq 1 100000; exit 0");
    spec.stdin = true;
    node.run(spec);
    let mut slow = attach(&mut node.client, "a", true).unwrap();
    slow.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(node.exit("a").code, 0);
    assert_eq!(node.texts("a").len(), 100_000);
    let heard = all(&mut slow.stdout);
    assert!(heard.is_empty() || heard.starts_with("1\n"), "{}", &heard[..20]);
    assert!(heard.len() < 500_000, "a pipe holds less: {} bytes", heard.len());
}

#[test]
fn stdin_ends_when_it_is_closed_and_nobody_has_it() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "cat; exit 4");
    spec.stdin = true;
    node.run(spec);
    let mut joined = attach(&mut node.client, "a", true).unwrap();
    joined.stdin.take().unwrap().write_all(b"last words").unwrap();
    node.order(Request::CloseStdin { id: "a".into() });
    assert_eq!(node.exit("a").code, 4);
    assert_eq!(all(&mut joined.stdout), "last words");
}

#[test]
fn a_stdin_for_one_client_ends_with_it() {
    let mut node = Node::new();
    for (id, once) in [("a", true), ("b", false)] {
        let mut spec = node.spec(id, "cat; exit 4");
        (spec.stdin, spec.stdin_once) = (true, once);
        node.run(spec);
        let mut other = node.connect();
        let joined = attach(&mut other, id, true).unwrap();
        drop(joined);
        drop(other);
    }
    assert_eq!(node.exit("a").code, 4);
    // The other one's stays for whoever comes next.
    let mut joined = attach(&mut node.client, "b", true).unwrap();
    joined.stdin.take().unwrap().write_all(b"still there\n").unwrap();
    let mut heard = [0; 12];
    joined.stdout.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still there\n");
}

#[test]
fn a_terminal_is_typed_into_and_read_from() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "read word; echo got $word; read end");
    (spec.stdin, spec.tty) = (true, true);
    node.run(spec);
    let mut joined = attach(&mut node.client, "a", true).unwrap();
    let mut keyboard = joined.stdin.take().unwrap();
    keyboard.write_all(b"hello\n").unwrap();
    let mut seen = String::new();
    while !seen.contains("got hello\r\n") {
        let mut buffer = [0; 64];
        let count = joined.stdout.read(&mut buffer).unwrap();
        assert!(count > 0, "{seen:?}");
        seen += std::str::from_utf8(&buffer[..count]).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut node = Node::new();
    node.run(node.spec("a", "sleep 1000"));
    let (_read, write): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    for outputs in [vec![], vec![Stdio::Stdin], vec![Stdio::Stdout, Stdio::Stderr]] {
        let request = Request::Attach { id: "a".into(), outputs, stdin: false };
        let refused = refusal(node.client.call_with_fds(request, &[write.as_fd()]));
        assert_eq!(refused.kind, ShimErrorKind::Invalid);
    }
    assert_eq!(refusal(attach(&mut node.client, "b", false)).kind, ShimErrorKind::NotFound);
    for _ in 0..32 {
        std::mem::forget(attach(&mut node.client, "a", false).unwrap());
    }
    assert_eq!(refusal(attach(&mut node.client, "a", false)).kind, ShimErrorKind::Busy);
}
