//! Files of environment variables (`fileKeyRef`): `NAME='value'` lines, by the kubelet's strict rules. The file lies in an
//! emptyDir that a container wrote, so that it is opened beneath the volume and read up to a bound.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// The longest file, the kubelet's bound of a line in its place.
const MAX_BYTES: u64 = 1 << 20;

/// The value of a key in a file beneath a volume; none where the file has no such key. Values stand in no error.
pub(super) fn read(volume: &Path, path: &str, key: &str) -> Result<Option<String>, String> {
    let text = open(volume, path)
        .and_then(|file| {
            let mut text = String::new();
            let read = file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
            if read as u64 > MAX_BYTES { Err(io::Error::other("the file is longer than 1 MiB")) } else { Ok(text) }
        })
        .map_err(|error| format!("couldn't parse env file \"{path}\": {error}"))?;
    find(&text, key).map_err(|error| format!("couldn't parse env file \"{path}\": {error}"))
}

/// A link in the volume stays in it; a pipe does not block, and is no file.
fn open(volume: &Path, path: &str) -> io::Result<File> {
    let directory = rustix::fs::openat(CWD, volume, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Only what stands up to the key is looked at, as the kubelet does.
fn find(text: &str, key: &str) -> Result<Option<String>, String> {
    let blank = [' ', '\t'];
    let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    while let Some((number, line)) = lines.next() {
        let wrong = |what: &str| Err(format!("invalid environment variable format at line {number}: {what}"));
        let line = line.trim_start_matches(blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return wrong("missing '='") };
        if name.trim_end_matches(blank).is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with(blank) {
            return wrong("whitespace before '=' is not allowed");
        }
        if value.starts_with(blank) {
            // As in a shell: the variable is empty, and the rest is another word.
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let mut whole = String::new();
        loop {
            if let Some((end, after)) = rest.split_once('\'') {
                whole.push_str(end);
                let after = after.trim_start_matches(blank);
                if !after.is_empty() && !after.starts_with('#') {
                    return wrong("unexpected content after closing quote");
                }
                break;
            }
            whole.push_str(rest);
            whole.push('\n');
            match lines.next() {
                Some((_, next)) => rest = next,
                None => return wrong("unclosed single quote"),
            }
        }
        if name == key {
            return Ok(Some(whole).filter(|value| !value.is_empty()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_by_the_strict_rules() {
        let file = "# a comment\n\n  A='1'\nB='two words' # more\nC='first\nsecond # kept\n'\nD= 'x'\nE=''\nF='$(A) \\n'\nBAD=x\nG='late'\n";
        let table = [
            ("A", Ok(Some("1"))),
            ("B", Ok(Some("two words"))),
            ("C", Ok(Some("first\nsecond # kept\n"))),
            ("D", Ok(None)),
            ("E", Ok(None)),
            ("F", Ok(Some("$(A) \\n"))),
            ("G", Err("invalid environment variable format at line 11: value must be enclosed in single quotes")),
        ];
        for (key, want) in table {
            let found = find(file, key);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(String::as_str), want, "{key}");
        }
        for bad in ["A", "=x", "A ='x'", "A=x", "A='x' y", "A='x\ny"] {
            assert!(find(bad, "Z").is_err(), "{bad}");
        }
    }

    #[test]
    fn what_leads_out_of_the_volume_stays_in_it() {
        let volume = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("env"), "A='outside'").expect("written");
        std::os::unix::fs::symlink(outside.path().join("env"), volume.path().join("link")).expect("linked");
        let error = read(volume.path(), "link", "A").expect_err("no such file in the volume");
        assert!(error.starts_with("couldn't parse env file \"link\": "), "{error}");
        std::fs::write(volume.path().join("env"), "A='inside'").expect("written");
        assert_eq!(read(volume.path(), "env", "A"), Ok(Some("inside".into())));
        assert!(read(volume.path(), ".", "A").is_err());
    }
}
