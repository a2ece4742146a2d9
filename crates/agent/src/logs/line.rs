//! One record of the CRI log format: `<RFC 3339 time> <stream> <tags> <content>`. A tag `P` says that the line goes on in
//! the stream's next record, `F` that it is complete.

use jiff::Timestamp;

/// Which of its two outputs a container wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// A parsed record, borrowed from the bytes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The time as it stands in the file.
    pub time: &'a str,
    /// Where it was written to.
    pub stream: Stream,
    /// The line goes on in a later record.
    pub partial: bool,
    /// What was written, without the newline.
    pub content: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parse one record, given without its newline. `None` for what is no record (a torn line, a foreign file).
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = split(line)?;
        let (stream, rest) = split(rest)?;
        // A record of an empty line may end with its tag.
        let (tags, content) = split(rest).unwrap_or((rest, &[]));
        let time = std::str::from_utf8(time).ok().filter(|time| looks_like_time(time))?;
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags are separated by colons; the first one is the only one defined.
        let partial = match tags.split(|b| *b == b':').next() {
            Some(b"P") => true,
            Some(b"F") => false,
            _ => return None,
        };
        Some(Self { time, stream, partial, content })
    }

    /// The record's time as a value.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..blank], &bytes[blank + 1..]))
}

/// Cheap: parsing each time in full would cost more than all the rest, and most readers never compare times.
fn looks_like_time(time: &str) -> bool {
    let bytes = time.as_bytes();
    bytes.len() >= 20 && bytes[0].is_ascii_digit() && bytes[4] == b'-' && bytes[10] == b'T'
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.678901234Z";

    #[test]
    fn records_are_parsed_and_everything_else_is_refused() {
        let table = [
            ("stdout F hello world", Some((Stream::Stdout, false, "hello world"))),
            ("stderr P half", Some((Stream::Stderr, true, "half"))),
            ("stdout F ", Some((Stream::Stdout, false, ""))),
            ("stdout F", Some((Stream::Stdout, false, ""))),
            ("stdout F:more tags", Some((Stream::Stdout, false, "tags"))),
            ("stdout F  two blanks ", Some((Stream::Stdout, false, " two blanks "))),
            ("stdout X nope", None),
            ("stdlog F nope", None),
            ("stdout", None),
            ("", None),
        ];
        for (rest, expected) in table {
            let line = format!("{TIME} {rest}");
            let parsed = Record::parse(line.as_bytes());
            let found = parsed.map(|r| (r.stream, r.partial, std::str::from_utf8(r.content).expect("utf-8")));
            assert_eq!(found, expected, "{line:?}");
        }
        assert_eq!(Record::parse(b"hello there my friend"), None);
        assert_eq!(Record::parse(b""), None);
    }

    #[test]
    fn content_may_be_any_bytes() {
        let line = [TIME.as_bytes(), b" stdout F \xff\0\r"].concat();
        assert_eq!(Record::parse(&line).expect("a record").content, b"\xff\0\r");
    }

    #[test]
    fn zones_other_than_utc_compare_by_instant() {
        let line = b"2026-01-02T03:04:05+02:00 stdout F x";
        let at = Record::parse(line).and_then(|record| record.timestamp()).expect("a time");
        assert_eq!(at.to_string(), "2026-01-02T01:04:05Z");
    }

    /// Any line is a record or refused; a record written again is the line, but for tags that nobody knows.
    #[test]
    fn any_line_is_a_record_or_refused() {
        podd_fuzz::run("log_reader", |input| {
            for line in input.split(|byte| *byte == b'\n') {
                let Some(record) = Record::parse(line) else { continue };
                let stream = if record.stream == Stream::Stdout { "stdout" } else { "stderr" };
                let tag = if record.partial { "P" } else { "F" };
                let again = [record.time.as_bytes(), stream.as_bytes(), tag.as_bytes(), record.content].join(&b' ');
                assert_eq!(Record::parse(&again), Some(record));
                assert!(line.ends_with(record.content) && line.starts_with(record.time.as_bytes()));
                let _any_time_or_none = record.timestamp();
            }
        });
    }
}
