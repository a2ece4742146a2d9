//! A container's output: the shim's ends of its pipes or terminal, and the log that they go to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use podd_shim::wire::{LogLimits, LogSpec, ShimErrorKind, WindowSize};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::audience::Audience;
use crate::child;
use crate::fault::{Outcome, Stage, refuse};
use crate::log::{Channel, LogFile, PIPE_SIZE, Progress, Scratch, Stream};
use crate::poller::{Poller, Serial, Token};

/// Where output comes from and where it goes.
#[derive(Debug)]
pub(crate) struct Output {
    serial: Serial,
    log: Option<LogFile>,
    streams: [Option<Stream>; 2],
    audience: Audience,
}

impl Output {
    /// Opens the log; without one, output is read and dropped.
    pub(crate) fn open(serial: Serial, log: Option<&LogSpec>) -> Outcome<Self> {
        let log = match log {
            Some(log) => Some(LogFile::open(log.clone()).on("open log", &log.path)?),
            None => None,
        };
        Ok(Self { serial, log, streams: [None, None], audience: Audience::default() })
    }

    /// Follows a pipe's end or a terminal's master from now on.
    pub(crate) fn follow(&mut self, fd: OwnedFd, which: Channel, poller: &Poller) -> io::Result<()> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        poller.add(&fd, Token::Output(self.serial, which))?;
        self.streams[which as usize] = Some(Stream::new(fd, which));
        Ok(())
    }

    /// Moves one batch of output into the log.
    pub(crate) fn pump(&mut self, which: Channel, poller: &Poller, scratch: &mut Scratch) {
        let Some(stream) = &mut self.streams[which as usize] else { return };
        if stream.pump(self.log.as_mut(), &mut self.audience, scratch) == Progress::Ended {
            self.end(which, poller, scratch);
        }
    }

    /// All that an ended process has written goes into the log. Others may hold its pipes and write on; unless they are
    /// known to have ended too, that is followed until the container is forgotten.
    pub(crate) fn drain(&mut self, all_ended: bool, poller: &Poller, scratch: &mut Scratch) {
        for which in [Channel::Stdout, Channel::Stderr] {
            let Some(stream) = &mut self.streams[which as usize] else { continue };
            // What a pipe can hold, twice: whoever writes on has to be somebody else. A terminal holds less.
            let most = 2 * fcntl_getpipe_size(stream.source()).unwrap_or(PIPE_SIZE);
            let mut taken = 0;
            let ended = loop {
                match stream.pump(self.log.as_mut(), &mut self.audience, scratch) {
                    Progress::Read(count) if taken < most => taken += count,
                    Progress::Read(_) | Progress::Empty => break false,
                    Progress::Ended => break true,
                }
            };
            if ended || all_ended {
                self.end(which, poller, scratch);
            } else {
                stream.finish(self.log.as_mut(), scratch);
                // The container has ended, whoever else still writes.
                self.audience.end(which);
            }
        }
    }

    fn end(&mut self, which: Channel, poller: &Poller, scratch: &mut Scratch) {
        if let Some(mut stream) = self.streams[which as usize].take() {
            stream.finish(self.log.as_mut(), scratch);
            poller.remove(stream.source());
            self.audience.end(which);
        }
    }

    /// Lets pipes hear what comes from now on.
    pub(crate) fn attach(&mut self, pipes: Vec<(Channel, OwnedFd)>) -> Outcome<()> {
        if !self.audience.has_room(pipes.len()) {
            return Err(refuse(ShimErrorKind::Busy, "attach", "too many are attached already"));
        }
        for (_, pipe) in &pipes {
            let flags = fcntl_getfl(pipe).stage("attach")?;
            fcntl_setfl(pipe, flags | OFlags::NONBLOCK).stage("attach")?;
        }
        for (channel, pipe) in pipes {
            // A stream that has ended already has nothing to say; its pipe is closed at once.
            if self.streams[channel as usize].is_some() {
                self.audience.join(channel, pipe);
            }
        }
        Ok(())
    }

    /// A descriptor of the terminal, to type into.
    pub(crate) fn keyboard(&self) -> Outcome<Option<OwnedFd>> {
        let stream = self.streams[Channel::Stdout as usize].as_ref();
        stream.map(|stream| stream.source().try_clone()).transpose().stage("share terminal")
    }

    /// Lets go of the streams.
    pub(crate) fn close(&mut self, poller: &Poller) {
        self.audience = Audience::default();
        for stream in self.streams.iter_mut().filter_map(Option::take) {
            poller.remove(stream.source());
        }
    }

    /// Changes the terminal's size.
    pub(crate) fn resize(&self, window: WindowSize) -> Outcome<()> {
        match &self.streams[Channel::Stdout as usize] {
            Some(stream) => child::resize(stream.source().as_fd(), window).stage("set terminal size"),
            None => Ok(()),
        }
    }

    /// Opens the log anew.
    pub(crate) fn reopen(&mut self) -> Outcome<()> {
        self.log.as_mut().map_or(Ok(()), |log| log.reopen().stage("reopen log"))
    }

    /// Changes when the log rotates.
    pub(crate) fn set_limits(&mut self, limits: LogLimits) {
        if let Some(log) = &mut self.log {
            log.set_limits(limits);
        }
    }

    /// Bytes that could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.log.as_ref().map_or(0, LogFile::dropped)
    }
}

/// The shim's ends of a container's pipes.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A container's standard descriptors as pipes, and the shim's ends of them.
pub(crate) fn pipes(stdin: bool) -> Outcome<([Option<OwnedFd>; 3], Ends)> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).stage("make pipe");
    let (stdin, stdin_end) = match stdin {
        true => pipe().map(|(read, write)| (Some(read), Some(write)))?,
        false => (None, None),
    };
    let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
    for end in [&stdout, &stderr] {
        // A smaller pipe serves too.
        let _smaller = fcntl_setpipe_size(end, PIPE_SIZE);
    }
    let ends = Ends { stdin: stdin_end, stdout: Some(stdout), stderr: Some(stderr) };
    Ok(([stdin, Some(stdout_end), Some(stderr_end)], ends))
}
