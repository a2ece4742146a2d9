//! Bytes to log lines. Every byte is kept, a carriage return too.

/// The longest text of one log line; what is longer comes in parts, as readers of CRI logs expect.
pub(super) const LONGEST: usize = 16 << 10;

/// Whether the text is the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// More of the line follows.
    Partial,
    /// The line's end.
    Full,
}

impl Tag {
    pub(super) fn letter(self) -> u8 {
        match self {
            Self::Partial => b'P',
            Self::Full => b'F',
        }
    }
}

/// The beginning of a line whose end has not come yet: at most [`LONGEST`] bytes.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// Emits each line in `input`, in two pieces: what was pending, and the rest.
    pub(super) fn push(&mut self, input: &[u8], mut emit: impl FnMut(Tag, &[u8], &[u8])) {
        let mut rest = input;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let tail = self.cut(&rest[..end], &mut emit);
            emit(Tag::Full, &self.pending, tail);
            self.forget();
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            let tail = self.cut(rest, &mut emit);
            self.pending.extend_from_slice(tail);
        }
    }

    /// The end of the stream: what is pending is a line though nothing ended it, or a reader would wait for its rest.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(Tag, &[u8], &[u8])) {
        if !self.pending.is_empty() {
            emit(Tag::Full, &self.pending, &[]);
            self.forget();
        }
    }

    /// Emits full parts until pending and the rest, which is returned, fit one line.
    fn cut<'a>(&mut self, text: &'a [u8], emit: &mut impl FnMut(Tag, &[u8], &[u8])) -> &'a [u8] {
        let mut rest = text;
        while self.pending.len() + rest.len() > LONGEST {
            let (part, after) = rest.split_at(LONGEST - self.pending.len());
            emit(Tag::Partial, &self.pending, part);
            self.forget();
            rest = after;
        }
        rest
    }

    fn forget(&mut self) {
        // A long line's buffer is not worth its memory in a process that must stay small.
        if self.pending.capacity() > 512 {
            self.pending = Vec::new();
        } else {
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `input` cut into pieces of `size`.
    fn split(input: &[u8], size: usize) -> Vec<(Tag, Vec<u8>)> {
        let mut lines = Vec::new();
        let mut splitter = Splitter::default();
        let mut emit = |tag, head: &[u8], tail: &[u8]| lines.push((tag, [head, tail].concat()));
        input.chunks(size).for_each(|piece| splitter.push(piece, &mut emit));
        splitter.finish(&mut emit);
        lines
    }

    #[test]
    fn lines_come_out_the_same_whatever_the_reads() {
        let mut input = b"one\n\n\r\ncr\r\nlf\n".to_vec();
        input.extend(vec![b'x'; 3 * LONGEST]);
        input.extend(b"\nlast without end");
        let whole = split(&input, input.len());
        for size in [1, 2, 3, 1000, LONGEST - 1, LONGEST, LONGEST + 1] {
            assert_eq!(split(&input, size), whole, "reads of {size}");
        }
        assert_eq!(whole[2], (Tag::Full, b"\r".to_vec()));
        assert_eq!(whole[3], (Tag::Full, b"cr\r".to_vec()));
        assert_eq!(whole.last().unwrap(), &(Tag::Full, b"last without end".to_vec()));
    }

    #[test]
    fn a_line_of_the_greatest_length_is_whole_and_a_longer_one_is_not() {
        let line = |length: usize| [vec![b'x'; length], vec![b'\n']].concat();
        let tags = |length: usize| -> Vec<(Tag, usize)> {
            split(&line(length), 4096).into_iter().map(|(tag, text)| (tag, text.len())).collect()
        };
        assert_eq!(tags(LONGEST), [(Tag::Full, LONGEST)]);
        assert_eq!(tags(LONGEST + 1), [(Tag::Partial, LONGEST), (Tag::Full, 1)]);
        assert_eq!(tags(2 * LONGEST), [(Tag::Partial, LONGEST), (Tag::Full, LONGEST)]);
    }

    #[test]
    fn no_byte_is_lost() {
        let input: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut again = Vec::new();
        for (tag, text) in split(&input, 777) {
            again.extend(text);
            again.extend((tag == Tag::Full).then_some(b'\n'));
        }
        // The last line had no end of its own.
        again.pop();
        assert_eq!(again, input.strip_suffix(b"\n").unwrap_or(&input));
    }

    /// Lines come out the same whatever the reads, none is too long, and together they are the input.
    #[test]
    fn any_output_is_lines_that_lose_nothing() {
        podd_fuzz::run("log_lines", |input| {
            let mut lines = Vec::new();
            let mut splitter = Splitter::default();
            let mut emit = |tag, head: &[u8], tail: &[u8]| lines.push((tag, [head, tail].concat()));
            podd_fuzz::pieces(input).for_each(|piece| splitter.push(piece, &mut emit));
            splitter.finish(&mut emit);
            assert_eq!(lines, split(input, input.len().max(1)));
            let mut again = Vec::new();
            for (tag, text) in &lines {
                assert!(text.len() <= LONGEST && !text.contains(&b'\n'));
                again.extend_from_slice(text);
                again.extend((*tag == Tag::Full).then_some(b'\n'));
            }
            if !input.is_empty() && !input.ends_with(b"\n") {
                again.pop();
            }
            assert_eq!(again, input);
        });
    }
}
