//! hostPath: a path of the node, checked against its type and, where the type says so, created. Links in it are followed:
//! whoever may write a hostPath may name any path, so that there is nothing to protect by refusing them.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::{Plan, VolumeError};

/// What must be at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Anything,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Types of the API; the second word is the kubelet's for "is not a …".
const TYPES: &[(&str, Expect, &str)] = &[
    ("", Expect::Anything, ""),
    ("DirectoryOrCreate", Expect::DirectoryOrCreate, "directory"),
    ("Directory", Expect::Directory, "directory"),
    ("FileOrCreate", Expect::FileOrCreate, "file"),
    ("File", Expect::File, "file"),
    ("Socket", Expect::Socket, "socket file"),
    ("CharDevice", Expect::CharDevice, "character device"),
    ("BlockDevice", Expect::BlockDevice, "block device"),
];

pub(super) fn plan(volume: &Volume, _: &Pod) -> Option<Result<Plan, String>> {
    let source = volume.host_path.as_ref()?;
    let type_ = source.type_.as_deref().unwrap_or_default();
    let path = PathBuf::from(&source.path);
    Some(match TYPES.iter().find(|row| row.0 == type_) {
        None => Err(format!("hostPath type {type_:?} is unknown")),
        Some(_) if !path.is_absolute() => Err(format!("hostPath {:?} is not absolute", source.path)),
        Some((_, expect, _)) => Ok(Plan::Host { path, expect: *expect }),
    })
}

/// What a type of the API expects.
pub(super) fn expected(type_: &str) -> Option<Expect> {
    TYPES.iter().find(|row| row.0 == type_).map(|row| row.1)
}

pub(super) fn apply(path: &Path, expect: Expect) -> Result<(), VolumeError> {
    let found = match fs::metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(error) => return Err(VolumeError::io("look at", path, error)),
    };
    let fits = match (expect, found) {
        (Expect::Anything, _) => true,
        (Expect::DirectoryOrCreate, None) => {
            return create_directory(path).map_err(|e| VolumeError::io("create directory", path, e));
        }
        (Expect::FileOrCreate, None) => return create_file(path).map_err(|e| VolumeError::io("create file", path, e)),
        (_, None) => false,
        (Expect::DirectoryOrCreate | Expect::Directory, Some(kind)) => kind.is_dir(),
        (Expect::FileOrCreate | Expect::File, Some(kind)) => kind.is_file(),
        (Expect::Socket, Some(kind)) => kind.is_socket(),
        (Expect::CharDevice, Some(kind)) => kind.is_char_device(),
        (Expect::BlockDevice, Some(kind)) => kind.is_block_device(),
    };
    if fits {
        return Ok(());
    }
    let word = TYPES.iter().find(|row| row.1 == expect).map_or("", |row| row.2);
    Err(VolumeError::TypeCheck(format!("{} is not a {word}", path.display())))
}

fn create_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// The parent directory must be there, as upstream: only the file is created.
fn create_file(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    match file {
        Ok(file) => file.set_permissions(fs::Permissions::from_mode(0o644)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
