//! The loop: whatever is ready is handled at once, and nobody is waited for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use podd_shim::wire::{Call, Message, OLDEST, Reply, Request, Response, ShimError, ShimErrorKind, VERSION, Welcome};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::WaitOptions;
use serde::Deserialize;

use crate::client::Client;
use crate::clock;
use crate::fault::refuse;
use crate::log::Scratch;
use crate::outbox::{Answer, Caller, Outbox};
use crate::pod::Pod;
use crate::poller::{Poller, Serial, Token};

/// How long the pumps' pages are kept after their last use, in milliseconds.
const PAGES_IDLE: i64 = 1000;

/// Connections at a time; a runtime needs one or two. One more is hung up on.
const MOST_CLIENTS: usize = 64;

/// The shim as a whole.
pub(crate) struct Server {
    poller: Poller,
    listener: OwnedFd,
    signals: OwnedFd,
    clients: BTreeMap<Serial, Client>,
    last_client: Serial,
    pod: Pod,
    scratch: Scratch,
    over: bool,
}

/// What even a request of a newer runtime has.
#[derive(Deserialize)]
struct Head {
    seq: u64,
    #[serde(default)]
    fds: u32,
}

impl Server {
    pub(crate) fn new(listener: OwnedFd, signals: OwnedFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        fcntl_setfl(&listener, fcntl_getfl(&listener)? | OFlags::NONBLOCK)?;
        poller.add(&listener, Token::Listener)?;
        poller.add(&signals, Token::Signals)?;
        Ok(Self {
            poller,
            listener,
            signals,
            clients: BTreeMap::new(),
            last_client: 0,
            pod: Pod::default(),
            scratch: Scratch::new()?,
            over: false,
        })
    }

    /// Serves until it is told to end.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.over {
            let ready = self.poller.wait(self.patience())?;
            if ready.is_empty() && self.scratch.used() {
                self.scratch.release();
            }
            let mut outbox = Outbox::default();
            for token in ready {
                self.handle(token, &mut outbox)?;
            }
            self.pod.on_time(clock::monotonic(), &self.poller, &mut outbox);
            self.send(outbox);
        }
        Ok(())
    }

    /// How long nothing has to be done when nothing comes, in milliseconds.
    fn patience(&self) -> Option<i64> {
        let left = |deadline: i64| (deadline - clock::monotonic()).max(0) / 1_000_000 + 1;
        let pages = self.scratch.used().then_some(PAGES_IDLE);
        self.pod.deadline().map(left).into_iter().chain(pages).min()
    }

    fn handle(&mut self, token: Token, outbox: &mut Outbox) -> io::Result<()> {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.reap(outbox)?,
            Token::Client(serial) => self.on_client(serial, outbox),
            Token::Container(serial) => self.pod.on_container_report(serial, &self.poller, outbox),
            Token::Exec(serial) => self.pod.on_exec_report(serial, &self.poller, outbox),
            Token::Init => self.pod.on_init_report(&self.poller, outbox),
            Token::Output(serial, which) => self.pod.on_output(serial, which, &self.poller, &mut self.scratch),
        }
        Ok(())
    }

    fn accept(&mut self) {
        // One that has gone again, or too many descriptors: the next one is told of again.
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        if self.clients.len() >= MOST_CLIENTS {
            return;
        }
        self.last_client += 1;
        if self.poller.add(&socket, Token::Client(self.last_client)).is_ok() {
            self.clients.insert(self.last_client, Client::new(socket));
        }
    }

    /// Reaps every child that has ended, ours and those that orphans have become.
    fn reap(&mut self, outbox: &mut Outbox) -> io::Result<()> {
        // SIGCHLD is one bit, however many have ended; the other signals mean nothing here.
        while rustix::io::read(&self.signals, &mut [0_u8; 1024]).is_ok() {}
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().unsigned_abs();
                    self.pod.on_end(pid, status, &self.poller, &mut self.scratch, outbox);
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn on_client(&mut self, serial: Serial, outbox: &mut Outbox) {
        let Some(client) = self.clients.get_mut(&serial) else { return };
        let alive = client.flush().and_then(|_| client.read());
        let alive = alive.and_then(|alive| self.take_frames(serial, outbox).map(|()| alive));
        match alive {
            Ok(true) => self.rearm(serial),
            Ok(false) | Err(_) => self.drop_client(serial),
        }
    }

    fn take_frames(&mut self, serial: Serial, outbox: &mut Outbox) -> io::Result<()> {
        loop {
            let Some(client) = self.clients.get_mut(&serial) else { return Ok(()) };
            let Some(frame) = client.decoder.next_frame()? else { return Ok(()) };
            let call = match frame.parse::<Call>() {
                Ok(call) => Ok(call),
                // Something of a newer runtime, if it has a number.
                Err(error) => Err((frame.parse::<Head>()?, error)),
            };
            match call {
                Ok(Call { seq, fds, request }) => {
                    let fds = client.decoder.take_fds(fds)?;
                    self.on_call(Caller { client: serial, seq }, request, fds, outbox);
                }
                Err((head, error)) => {
                    let _unwanted = client.decoder.take_fds(head.fds)?;
                    let error = refuse(ShimErrorKind::Unsupported, "read request", error.to_string());
                    outbox.answer(&mut Some(Caller { client: serial, seq: head.seq }), Err(error));
                }
            }
        }
    }

    fn on_call(&mut self, caller: Caller, request: Request, fds: Vec<OwnedFd>, outbox: &mut Outbox) {
        match request {
            Request::Hello { version, oldest } => {
                let result = self.welcome(version, oldest);
                if let (Ok(_), Some(client)) = (&result, self.clients.get_mut(&caller.client)) {
                    client.greeted = true;
                }
                outbox.answer(&mut Some(caller), result.map(Response::Welcome));
            }
            Request::Shutdown => {
                let before = outbox.answers.len();
                self.pod.call(caller, Request::Shutdown, fds, &self.poller, outbox);
                self.over = outbox.answers[before..].iter().any(|answer| answer.result.is_ok());
            }
            request => self.pod.call(caller, request, fds, &self.poller, outbox),
        }
    }

    fn welcome(&self, version: u32, oldest: u32) -> Result<Welcome, ShimError> {
        let common = version.min(VERSION);
        if common < oldest.max(OLDEST) {
            let message = format!("this shim speaks {OLDEST} to {VERSION}, the runtime {oldest} to {version}");
            return Err(refuse(ShimErrorKind::Unsupported, "greet", message));
        }
        Ok(Welcome { version: common, pid: std::process::id(), sandbox: self.pod.sandbox().cloned() })
    }

    /// Sends what has come up. A client that can't be sent to is cut off, whatever becomes of its calls.
    fn send(&mut self, outbox: Outbox) {
        let mut touched = Vec::new();
        for event in outbox.events {
            let message = Message::Event(event);
            let greeted: Vec<Serial> =
                self.clients.iter().filter(|(_, client)| client.greeted).map(|(serial, _)| *serial).collect();
            for serial in greeted {
                self.queue(serial, &message, Vec::new());
                touched.push(serial);
            }
        }
        for Answer { caller, result, fds } in outbox.answers {
            let count = u32::try_from(fds.len()).unwrap_or(u32::MAX);
            let message = Message::Reply(Reply { seq: caller.seq, fds: count, result });
            self.queue(caller.client, &message, fds);
            touched.push(caller.client);
        }
        touched.sort_unstable();
        touched.dedup();
        for serial in touched {
            self.rearm(serial);
        }
    }

    fn queue(&mut self, serial: Serial, message: &Message, fds: Vec<OwnedFd>) {
        if let Some(client) = self.clients.get_mut(&serial)
            && client.queue(message, fds).is_err()
        {
            self.drop_client(serial);
        }
    }

    /// Writes what waits, and asks to be told when more can be written.
    fn rearm(&mut self, serial: Serial) {
        let Some(client) = self.clients.get_mut(&serial) else { return };
        let outcome =
            client.flush().and_then(|empty| self.poller.writing(client.socket(), Token::Client(serial), !empty));
        if outcome.is_err() {
            self.drop_client(serial);
        }
    }

    fn drop_client(&mut self, serial: Serial) {
        if let Some(client) = self.clients.remove(&serial) {
            self.poller.remove(client.socket());
            self.pod.on_client_gone(serial);
        }
    }
}
