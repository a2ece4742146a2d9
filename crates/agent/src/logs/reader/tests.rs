//! Logs read while they are written and rotated.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn record(second: usize, stream: &str, tag: &str, content: &str) -> String {
    format!("2026-01-02T03:{:02}:{:02}.000000000Z {stream} {tag} {content}\n", second / 60 % 60, second % 60)
}

fn lines(count: usize) -> String {
    (0..count).map(|n| record(n, "stdout", "F", &format!("line {n}"))).collect()
}

fn read_all(live: &Path, selection: &Selection) -> String {
    let mut reader = Reader::open(live, selection).expect("open");
    let mut out = Vec::new();
    while reader.read(&mut out, usize::MAX).expect("read") == Progress::More {}
    reader.finish(&mut out);
    String::from_utf8(out).expect("utf-8")
}

struct Log {
    directory: TempDir,
    live: PathBuf,
}

fn log(files: &[(&str, String)]) -> Log {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        fs::write(directory.path().join(name), content).expect("written");
    }
    let live = directory.path().join("0.log");
    Log { directory, live }
}

#[test]
fn partial_records_are_joined_and_times_shown_once_a_line() {
    let text = record(0, "stdout", "P", "one ") + &record(1, "stdout", "F", "line") + &record(2, "stderr", "F", "err");
    let log = log(&[("0.log", text)]);
    assert_eq!(read_all(&log.live, &Selection::default()), "one line\nerr\n");
    let with_times = read_all(&log.live, &Selection { timestamps: true, ..Default::default() });
    assert_eq!(with_times, "2026-01-02T03:00:00.000000000Z one line\n2026-01-02T03:00:02.000000000Z err\n");
}

#[test]
fn tail_counts_whole_lines_from_the_end() {
    let text = record(0, "stdout", "F", "a")
        + &record(1, "stdout", "P", "b1 ")
        + &record(2, "stdout", "F", "b2")
        + &record(3, "stdout", "P", "unfinished");
    let log = log(&[("0.log", text)]);
    let table = [
        (0, ""),
        (1, "unfinished"),
        (2, "b1 b2\nunfinished"),
        (3, "a\nb1 b2\nunfinished"),
        (9, "a\nb1 b2\nunfinished"),
    ];
    for (tail, expected) in table {
        assert_eq!(read_all(&log.live, &Selection { tail: Some(tail), ..Default::default() }), expected, "tail {tail}");
    }
}

#[test]
fn tail_reaches_back_over_rotated_files() {
    let log = log(&[
        ("0.log.20260101-000000", record(0, "stdout", "F", "1") + &record(1, "stdout", "F", "2")),
        ("0.log.20260102-000000", record(2, "stdout", "F", "3")),
        ("0.log", record(3, "stdout", "F", "4")),
    ]);
    for (tail, expected) in [(1, "4\n"), (2, "3\n4\n"), (3, "2\n3\n4\n"), (4, "1\n2\n3\n4\n"), (5, "1\n2\n3\n4\n")] {
        assert_eq!(read_all(&log.live, &Selection { tail: Some(tail), ..Default::default() }), expected, "tail {tail}");
    }
}

#[test]
fn since_drops_what_is_older_and_keeps_the_instant_itself() {
    let log = log(&[("0.log", lines(5))]);
    let since = Some("2026-01-02T03:00:03Z".parse().expect("a time"));
    assert_eq!(read_all(&log.live, &Selection { since, ..Default::default() }), "line 3\nline 4\n");
}

#[test]
fn limit_bytes_is_exact_and_ends_the_log() {
    let log = log(&[("0.log", lines(5))]);
    let selection = Selection { limit_bytes: Some(9), ..Default::default() };
    let mut reader = Reader::open(&log.live, &selection).expect("open");
    let mut out = Vec::new();
    assert_eq!(reader.read(&mut out, usize::MAX).expect("read"), Progress::Finished);
    assert_eq!(out, b"line 0\nli");
}

#[test]
fn foreign_lines_and_endless_lines_are_left_out() {
    let text = format!("nonsense\n{}\n{}", "x".repeat(3 * LONGEST_RECORD), record(0, "stdout", "F", "good"));
    let log = log(&[("0.log", text)]);
    assert_eq!(read_all(&log.live, &Selection::default()), "good\n");
}

#[test]
fn a_log_that_starts_later_is_found() {
    let log = log(&[]);
    let mut reader = Reader::open(&log.live, &Selection::default()).expect("open");
    let mut out = Vec::new();
    assert_eq!(reader.read(&mut out, usize::MAX).expect("read"), Progress::AtEnd);
    fs::write(&log.live, lines(1)).expect("written");
    assert_eq!(reader.read(&mut out, usize::MAX).expect("read"), Progress::AtEnd);
    assert_eq!(out, b"line 0\n");
}

#[test]
fn a_reader_left_behind_goes_on_with_the_oldest_file_still_there() {
    let log = log(&[("0.log", record(0, "stdout", "F", "old"))]);
    let mut reader = Reader::open(&log.live, &Selection::default()).expect("open");
    let path = |name: &str| log.directory.path().join(name);
    fs::rename(&log.live, path("0.log.1")).expect("renamed");
    fs::remove_file(path("0.log.1")).expect("removed");
    fs::write(path("0.log.2"), record(1, "stdout", "F", "next")).expect("written");
    fs::write(path("0.log.1"), record(2, "stdout", "F", "then")).expect("written");
    fs::write(&log.live, record(3, "stdout", "F", "now")).expect("written");
    let mut out = Vec::new();
    reader.read(&mut out, usize::MAX).expect("read");
    assert_eq!(out, b"old\nnext\nthen\nnow\n");
}

#[test]
fn a_torn_record_that_the_writer_takes_back_is_forgotten() {
    let log = log(&[("0.log", record(0, "stdout", "F", "1") + "2026-01-02T03:00:01Z stdout F to")]);
    let mut reader = Reader::open(&log.live, &Selection::default()).expect("open");
    let mut out = Vec::new();
    reader.read(&mut out, usize::MAX).expect("read");
    let whole = record(0, "stdout", "F", "1").len() as u64;
    OpenOptions::new().write(true).open(&log.live).and_then(|file| file.set_len(whole)).expect("cut");
    reader.read(&mut out, usize::MAX).expect("read");
    let mut file = OpenOptions::new().append(true).open(&log.live).expect("open");
    file.write_all(record(2, "stdout", "F", "2").as_bytes()).expect("written");
    reader.read(&mut out, usize::MAX).expect("read");
    assert_eq!(out, b"1\n2\n");
}

#[test]
fn a_later_file_is_found_while_there_is_no_live_one() {
    let log = log(&[("0.log", record(0, "stdout", "F", "1"))]);
    let path = |name: &str| log.directory.path().join(name);
    fs::rename(&log.live, path("0.log.20260102-000001")).expect("renamed");
    let mut reader = Reader::open(&log.live, &Selection::default()).expect("open");
    let mut out = Vec::new();
    reader.read(&mut out, usize::MAX).expect("read");
    fs::write(path("0.log.20260102-000002"), record(1, "stdout", "F", "2")).expect("written");
    reader.read(&mut out, usize::MAX).expect("read");
    assert_eq!(out, b"1\n2\n");
}

/// What the writer and the reader do, in turn.
#[derive(Clone, Debug)]
enum Step {
    Write {
        partial: bool,
        length: usize,
    },
    /// Write only a part of a record now, the rest before the next step of the writer.
    Tear {
        length: usize,
    },
    /// Rename and start anew; with the new file, or with it missing until the next write.
    Rotate {
        at_once: bool,
    },
    Read {
        budget: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<bool>(), 0..200_usize).prop_map(|(partial, length)| Step::Write { partial, length }),
        1 => (1..100_usize).prop_map(|length| Step::Tear { length }),
        2 => any::<bool>().prop_map(|at_once| Step::Rotate { at_once }),
        3 => (1..500_usize).prop_map(|budget| Step::Read { budget }),
    ];
    prop::collection::vec(step, 1..80)
}

/// A log as the shim or the kubelet writes it.
struct Writer<'a> {
    directory: &'a Path,
    counts: bool,
    file: Option<File>,
    rotations: usize,
    written: usize,
    torn: String,
    expected: String,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &str) {
        let live = self.directory.join("0.log");
        let open = || OpenOptions::new().create(true).append(true).open(live).expect("open");
        self.file.get_or_insert_with(open).write_all(bytes.as_bytes()).expect("written");
    }

    fn mend(&mut self) {
        let rest = std::mem::take(&mut self.torn);
        if !rest.is_empty() {
            self.put(&rest);
        }
    }

    fn record(&mut self, partial: bool, length: usize) -> String {
        self.written += 1;
        let content = format!("{}:{}", self.written, "x".repeat(length));
        self.expected += &content;
        if !partial {
            self.expected.push('\n');
        }
        record(self.written, "stdout", if partial { "P" } else { "F" }, &content)
    }

    fn rotate(&mut self, at_once: bool) {
        let Some(file) = self.file.take() else { return };
        drop(file);
        self.rotations += 1;
        let name = |n: usize| self.directory.join(format!("0.log.{n}"));
        let target = if self.counts {
            for n in (1..self.rotations).rev() {
                fs::rename(name(n), name(n + 1)).expect("renamed");
            }
            name(1)
        } else {
            self.directory.join(format!("0.log.20260102-{:06}", self.rotations))
        };
        fs::rename(self.directory.join("0.log"), target).expect("renamed");
        if at_once {
            self.put("");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_repeated_wherever_the_log_rotates(steps in steps(), counts in any::<bool>()) {
        let directory = tempfile::tempdir().expect("a directory");
        let live = directory.path().join("0.log");
        let mut writer = Writer {
            directory: directory.path(), counts, file: None, rotations: 0, written: 0,
            torn: String::new(), expected: String::new(),
        };
        let mut reader = Reader::open(&live, &Selection::default()).expect("open");
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Write { partial, length } => {
                    writer.mend();
                    let record = writer.record(partial, length);
                    writer.put(&record);
                }
                Step::Tear { length } => {
                    writer.mend();
                    let record = writer.record(false, length);
                    let (now, later) = record.split_at(length.min(record.len() - 1));
                    writer.put(now);
                    writer.torn = later.to_owned();
                }
                Step::Rotate { at_once } => {
                    writer.mend();
                    writer.rotate(at_once);
                }
                Step::Read { budget } => {
                    let so_far = out.len();
                    reader.read(&mut out, so_far + budget).expect("read");
                }
            }
        }
        writer.mend();
        while reader.read(&mut out, usize::MAX).expect("read") == Progress::More {}
        reader.finish(&mut out);
        prop_assert_eq!(std::str::from_utf8(&out).expect("utf-8"), writer.expected.as_str());
        // A reader that comes afterwards sees the same, and every tail is an end of it.
        let fresh = read_all(&live, &Selection::default());
        prop_assert_eq!(&fresh, &writer.expected);
        for tail in [0_usize, 1, 2, 5, 1000] {
            let text = read_all(&live, &Selection { tail: Some(tail as u64), ..Default::default() });
            let all: Vec<&str> = writer.expected.split_inclusive('\n').collect();
            prop_assert_eq!(text, all[all.len().saturating_sub(tail)..].concat());
        }
    }

    #[test]
    fn tails_of_long_records_cross_the_block_bound(lengths in prop::collection::vec(0..40_000_usize, 1..12), tail in 1..12_usize) {
        let text: String = lengths.iter().enumerate().map(|(n, l)| record(n, "stdout", "F", &"y".repeat(*l))).collect();
        let log = log(&[("0.log", text)]);
        let found = read_all(&log.live, &Selection { tail: Some(tail as u64), ..Default::default() });
        let expected: String = lengths.iter().skip(lengths.len().saturating_sub(tail)).map(|l| "y".repeat(*l) + "\n").collect();
        prop_assert_eq!(found, expected);
    }
}
