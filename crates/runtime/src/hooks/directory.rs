//! Hooks of the machine's: JSON files of `hooks_dirs` that say which containers they are for (oci-hooks(5), version 1.0.0).
//!
//! A file of a later directory takes the place of one with the same name; they apply in the order of their names. They are
//! read anew for each container, so that a file that comes or goes counts from the next one on.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use podd_shim::wire::Hook;
use regex::Regex;
use serde::Deserialize;

use super::Hooks;
use crate::error::{Context, CriError, Result};

/// The longest file.
const LONGEST: u64 = 1 << 20;

/// One file.
#[derive(Debug)]
pub(crate) struct HookFile {
    path: PathBuf,
    hook: Hook,
    when: When,
    stages: Vec<String>,
}

/// All conditions that are given have to hold.
#[derive(Debug, Default)]
struct When {
    always: Option<bool>,
    /// Key and value of an annotation.
    annotations: Vec<(Regex, Regex)>,
    /// The container's program.
    commands: Vec<Regex>,
    has_bind_mounts: Option<bool>,
}

/// What a container is, as far as conditions ask.
pub(crate) struct Subject<'a> {
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) command: &'a str,
    pub(crate) has_bind_mounts: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    hook: FileHook,
    when: FileWhen,
    stages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHook {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[derive(Default)]
struct FileWhen {
    always: Option<bool>,
    annotations: BTreeMap<String, String>,
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// Reads all files. A directory that is not there has none; a file that is wrong refuses every container, as nobody can
/// say for which it was meant.
pub(crate) fn read(directories: &[PathBuf]) -> Result<Vec<HookFile>> {
    let mut paths: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        let what = || format!("list hooks directory {}", directory.display());
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.context(what)?,
        };
        for entry in entries {
            let entry = entry.context(what)?;
            if entry.path().extension().is_some_and(|extension| extension == "json") {
                paths.insert(entry.file_name(), entry.path());
            }
        }
    }
    paths.into_values().map(|path| read_file(&path)).collect()
}

fn read_file(path: &Path) -> Result<HookFile> {
    let what = || format!("read hook {}", path.display());
    let length = fs::metadata(path).context(what)?.len();
    if length > LONGEST {
        return Err(CriError::internal(what(), format!("{length} bytes are more than {LONGEST}")));
    }
    let text = fs::read(path).context(what)?;
    parse(path, &text).map_err(|why| CriError::internal(what(), why))
}

fn parse(path: &Path, text: &[u8]) -> std::result::Result<HookFile, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if file.version != "1.0.0" {
        return Err(format!("version {:?} is not 1.0.0", file.version));
    }
    if !file.hook.path.is_absolute() {
        return Err(format!("hook.path {:?} must be absolute", file.hook.path));
    }
    if file.hook.timeout == Some(0) {
        return Err("hook.timeout must be positive".to_owned());
    }
    if let Some(wrong) = file.hook.env.iter().find(|variable| !variable.contains('=')) {
        return Err(format!("hook.env: {wrong:?} is not NAME=value"));
    }
    if file.stages.is_empty() {
        return Err("stages must name at least one".to_owned());
    }
    if let Some(wrong) = file.stages.iter().find(|stage| !Hooks::STAGES.contains(&stage.as_str())) {
        return Err(format!("stage {wrong:?} is none of {}", Hooks::STAGES.join(", ")));
    }
    let regex = |text: &String| Regex::new(text).map_err(|error| error.to_string());
    let when = When {
        always: file.when.always,
        annotations: file
            .when
            .annotations
            .iter()
            .map(|(key, value)| Ok((regex(key)?, regex(value)?)))
            .collect::<std::result::Result<_, String>>()?,
        commands: file.when.commands.iter().map(regex).collect::<std::result::Result<_, String>>()?,
        has_bind_mounts: file.when.has_bind_mounts,
    };
    let FileHook { path: program, args, env, timeout } = file.hook;
    let hook = Hook { path: program, args, env, timeout };
    Ok(HookFile { path: path.to_owned(), hook, when, stages: file.stages })
}

/// The hooks of those files whose conditions a container meets.
pub(crate) fn select(files: &[HookFile], subject: &Subject<'_>) -> Hooks {
    let mut hooks = Hooks::default();
    for file in files.iter().filter(|file| file.when.holds(subject)) {
        tracing::debug!(file = %file.path.display(), stages = ?file.stages, "a hook applies");
        for stage in &file.stages {
            if let Some(list) = hooks.stage(stage) {
                list.push(file.hook.clone());
            }
        }
    }
    hooks
}

impl When {
    /// A file that gives no condition is for nobody.
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let annotated = |(key, value): &(Regex, Regex)| {
            subject.annotations.iter().any(|(name, text)| key.is_match(name) && value.is_match(text))
        };
        let commanded = self.commands.iter().any(|command| command.is_match(subject.command));
        let given = self.always.is_some()
            || self.has_bind_mounts.is_some()
            || !self.annotations.is_empty()
            || !self.commands.is_empty();
        given
            && self.always != Some(false)
            // `false` asks for nothing that a container could meet, as in the implementation that others share.
            && self.has_bind_mounts.is_none_or(|wanted| wanted && subject.has_bind_mounts)
            && self.annotations.iter().all(annotated)
            && (self.commands.is_empty() || commanded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(when: &str) -> HookFile {
        let text = format!(r#"{{"version":"1.0.0","hook":{{"path":"/bin/h"}},"when":{when},"stages":["poststop"]}}"#);
        parse(Path::new("x.json"), text.as_bytes()).expect(when)
    }

    #[test]
    fn every_condition_that_is_given_has_to_hold() {
        let annotations = BTreeMap::from([("gpu.vendor".to_owned(), "yes".to_owned())]);
        let subject = Subject { annotations: &annotations, command: "/usr/bin/sh", has_bind_mounts: true };
        for (when, holds) in [
            ("{}", false),
            (r#"{"always":true}"#, true),
            (r#"{"always":false}"#, false),
            (r#"{"always":false,"hasBindMounts":true}"#, false),
            (r#"{"hasBindMounts":true}"#, true),
            (r#"{"hasBindMounts":false}"#, false),
            (r#"{"commands":["sh$"]}"#, true),
            (r#"{"commands":["bash$","^/usr"]}"#, true),
            (r#"{"commands":["bash$"]}"#, false),
            (r#"{"commands":["sh$"],"annotations":{"^gpu\\.":"^yes$"}}"#, true),
            (r#"{"commands":["sh$"],"annotations":{"^gpu\\.":"^no$"}}"#, false),
            (r#"{"annotations":{"^gpu\\.":"^yes$","none":"."}}"#, false),
        ] {
            assert_eq!(!select(&[file(when)], &subject).is_empty(), holds, "{when}");
        }
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_by_what_is_wrong() {
        let good = r#"{"version":"1.0.0","hook":{"path":"/h"},"when":{"always":true},"stages":["prestart"]}"#;
        assert!(parse(Path::new("x"), good.as_bytes()).is_ok());
        for (from, to, names) in [
            ("1.0.0", "0.1.0", "version"),
            ("/h", "h", "absolute"),
            ("prestart", "preStart", "preStart"),
            (r#"["prestart"]"#, "[]", "stages"),
            (r#""always":true"#, r#""commands":["("]"#, "unclosed"),
            (r#""always""#, r#""sometimes""#, "sometimes"),
            (r#""path":"/h""#, r#""path":"/h","timeout":0"#, "timeout"),
            (r#""path":"/h""#, r#""path":"/h","env":["A"]"#, "\"A\""),
            ("{", "", "expected"),
        ] {
            let text = good.replacen(from, to, 1);
            let why = parse(Path::new("x"), text.as_bytes()).expect_err(&text);
            assert!(why.contains(names), "{text}: {why}");
        }
    }

    #[test]
    fn a_later_directory_takes_the_place_of_a_file_and_names_give_the_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        let none = directory.path().join("none");
        let write = |directory: &Path, name: &str, program: &str| {
            fs::create_dir_all(directory).expect("a directory");
            let text = format!(
                r#"{{"version":"1.0.0","hook":{{"path":"{program}"}},"when":{{"always":true}},"stages":["poststop","prestart"]}}"#
            );
            fs::write(directory.join(name), text).expect("a file");
        };
        write(&first, "20.json", "/first/20");
        write(&first, "10.json", "/first/10");
        write(&first, "ignored.txt", "relative");
        write(&second, "20.json", "/second/20");
        let files = read(&[first, none, second.clone()]).expect("read");
        let annotations = BTreeMap::new();
        let hooks = select(&files, &Subject { annotations: &annotations, command: "", has_bind_mounts: false });
        let paths = |hooks: &[Hook]| hooks.iter().map(|hook| hook.path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths(&hooks.poststop), ["/first/10", "/second/20"]);
        assert_eq!(paths(&hooks.prestart), ["/first/10", "/second/20"]);
        fs::write(second.join("30.json"), "{").expect("a file");
        let error = read(&[second]).expect_err("a broken file").chain();
        assert!(error.contains("30.json"), "{error}");
    }
}
