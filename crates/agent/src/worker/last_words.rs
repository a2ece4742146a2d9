//! What a container says of its own end: the file it may write (`terminationMessagePath`), or the end of its log where the
//! policy falls back to that.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use podd_core::pod::Failure;
use podd_cri::v1;
use rustix::fs::OFlags;

use super::{
    names::{TERMINATION_PATH, TERMINATION_POLICY, identity},
    services::{Services, Settings},
};
use crate::logs::{Selection, reader::Reader};

/// Where the message is left when the manifest is silent.
pub(super) const DEFAULT_PATH: &str = "/dev/termination-log";
/// The policy that takes the log where there is no message.
const FALLBACK: &str = "FallbackToLogsOnError";
/// Bytes of a message, from its end.
const MESSAGE_MAX: u64 = 4096;
/// Bytes of a log that stands for a message, from its end.
const LOG_MAX: usize = 2048;
/// Lines of a log that stands for a message.
const LOG_LINES: u64 = 80;
/// Bytes of a log that are read at once.
const BLOCK: usize = 64 << 10;

/// Makes the file for the message of one instance, and tells where it is mounted.
pub(super) fn mount(
    services: &Services,
    pod: &Pod,
    container: &Container,
    restarts: u32,
) -> Result<v1::Mount, Failure> {
    let file = make(&services.settings, identity(pod).uid, &container.name, restarts).map_err(|error| Failure {
        reason: "CreateContainerConfigError".to_owned(),
        message: format!("make the file for the termination message: {error}"),
    })?;
    // A relative path is meant from the root.
    let inside = Path::new("/").join(container.termination_message_path.as_deref().unwrap_or(DEFAULT_PATH));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(v1::Mount { container_path: text(&inside), host_path: text(&file), ..Default::default() })
}

/// `<pod>/containers/<name>/<restart count>`, empty, and open to whatever user the container runs as.
fn make(settings: &Settings, uid: &str, container: &str, restarts: u32) -> io::Result<PathBuf> {
    let directory = settings.pods_dir.join(uid).join("containers").join(container);
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(restarts.to_string());
    let file = File::create(&path)?;
    // Whatever the agent's umask takes away.
    file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

/// What a container that has ended is known to have said; empty if nothing.
pub(super) fn read(status: &v1::ContainerStatus) -> String {
    let annotation = |name: &str| status.annotations.get(name).map(String::as_str).unwrap_or_default();
    let falls_back =
        annotation(TERMINATION_POLICY) == FALLBACK && status.exit_code != 0 && status.reason != "ContainerCannotRun";
    let inside = Path::new("/").join(annotation(TERMINATION_PATH));
    let mount = status.mounts.iter().find(|mount| Path::new(&mount.container_path) == inside);
    let message = match mount.map(|mount| from_file(Path::new(&mount.host_path))) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            return format!("Error on reading termination log: {error}");
        }
        Some(Ok(message)) => message,
        Some(Err(_)) | None => String::new(),
    };
    if message.is_empty() && falls_back && !status.log_path.is_empty() {
        return from_log(Path::new(&status.log_path))
            .unwrap_or_else(|error| format!("Error on reading termination message from logs: {error}"));
    }
    message
}

fn from_file(path: &Path) -> io::Result<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MESSAGE_MAX)))?;
    let mut message = Vec::new();
    file.take(MESSAGE_MAX).read_to_end(&mut message)?;
    Ok(String::from_utf8_lossy(&message).into_owned())
}

fn from_log(path: &Path) -> io::Result<String> {
    let selection = Selection { tail: Some(LOG_LINES), ..Selection::default() };
    let mut reader = Reader::open(path, &selection)?;
    let mut tail = Vec::new();
    loop {
        let before = tail.len();
        let progress = reader.read(&mut tail, before + BLOCK)?;
        let read = tail.len() - before;
        tail.drain(..tail.len().saturating_sub(LOG_MAX));
        if read == 0 || !matches!(progress, crate::logs::reader::Progress::More) {
            break;
        }
    }
    reader.finish(&mut tail);
    tail.drain(..tail.len().saturating_sub(LOG_MAX));
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &Path, log: &Path, policy: &str, exit_code: i32) -> v1::ContainerStatus {
        v1::ContainerStatus {
            exit_code,
            mounts: vec![v1::Mount {
                container_path: "/said".into(),
                host_path: path.to_string_lossy().into_owned(),
                ..Default::default()
            }],
            annotations: [(TERMINATION_PATH, "/said"), (TERMINATION_POLICY, policy)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            log_path: log.to_string_lossy().into_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn the_last_four_kibibytes_of_the_file_are_the_message() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, log) = (directory.path().join("said"), directory.path().join("0.log"));
        let of = |text: &str| {
            std::fs::write(&file, text).expect("written");
            read(&status(&file, &log, "File", 1))
        };
        assert_eq!(of("out of luck\n"), "out of luck\n");
        assert_eq!(of(&format!("{}{}", "x".repeat(10), "y".repeat(4096))), "y".repeat(4096));
        assert_eq!(of(""), "");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(read(&status(&file, &log, "File", 1)), "");
    }

    #[test]
    fn the_end_of_the_log_stands_for_a_message_only_after_an_error_and_where_there_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, log) = (directory.path().join("said"), directory.path().join("0.log"));
        let line = |n: u32| format!("2026-11-26T12:00:00.000000000Z stdout F line {n}\n");
        std::fs::write(&log, (0..100).map(line).collect::<String>()).expect("written");
        std::fs::write(&file, "").expect("written");
        let told = read(&status(&file, &log, FALLBACK, 1));
        assert_eq!(told, (20..100).map(|n| format!("line {n}\n")).collect::<String>());
        assert_eq!(read(&status(&file, &log, FALLBACK, 0)), "");
        assert_eq!(read(&status(&file, &log, "File", 1)), "");
        std::fs::write(&file, "mine").expect("written");
        assert_eq!(read(&status(&file, &log, FALLBACK, 1)), "mine");
        let long = format!("2026-11-26T12:00:00.000000000Z stderr F {}end\n", "z".repeat(5000));
        std::fs::write(&log, long).expect("written");
        std::fs::write(&file, "").expect("written");
        let told = read(&status(&file, &log, FALLBACK, 137));
        assert!(told.len() == 2048 && told.ends_with("zend\n"), "{}", told.len());
    }

    #[test]
    fn a_link_where_the_file_was_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("said");
        std::os::unix::fs::symlink("/etc/passwd", &file).expect("a link");
        let told = read(&status(&file, directory.path(), "File", 1));
        assert!(told.starts_with("Error on reading termination log"), "{told}");
    }
}
