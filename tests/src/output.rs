//! What a command printed, and how it ended.

/// The end of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Exit code; 128 + n when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    pub(crate) fn of(command: String, output: &std::process::Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { command, code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Standard output of a command that went well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        &self.stdout
    }

    /// Standard error of a command that failed as a refusal does: exit code 1.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn refused(&self) -> &str {
        assert_eq!(self.code, 1, "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        &self.stderr
    }
}
