//! Names of units and where their groups lie.

use std::path::{Path, PathBuf};

use crate::error::{CriError, Result};

const SLICE: &str = ".slice";
/// systemd's own limit.
const NAME_MAX: usize = 255;

/// The group of a slice, by its name or a path that ends in it: `a-b.slice` lies in `a.slice`.
pub(crate) fn slice_path(parent: &str) -> Result<PathBuf> {
    let refuse = |why: &str| CriError::invalid(format!("cgroup_parent {parent:?} {why}"));
    let unit = parent.rsplit('/').next().unwrap_or_default();
    let Some(name) = unit.strip_suffix(SLICE) else {
        return Err(refuse("is no slice, like kubepods-burstable.slice; the cgroup driver is systemd"));
    };
    if name == "-" {
        return Err(refuse("names the root group"));
    }
    let fits = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:\\".contains(&byte))
    };
    if unit.len() > NAME_MAX || !name.split('-').all(fits) {
        return Err(refuse("is no name of a slice: letters, digits, '_', '.', ':' and '\\', parted by single dashes"));
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("{}{SLICE}", &name[..end])).collect())
}

/// The slice of pods whose caller names none: within that of the instance.
pub(crate) fn own_slice(cgroup_root: &Path, id: &str) -> String {
    let instance = cgroup_root.file_name().and_then(|name| name.to_str()).unwrap_or("podd");
    format!("{}-pod{id}{SLICE}", instance.trim_matches('-'))
}

/// The group of something that runs processes, in a pod's group: a scope in a slice, else a plain child.
pub(crate) fn leaf(parent: &Path, id: &str) -> PathBuf {
    match parent.extension() {
        Some(extension) if extension == "slice" => parent.join(format!("podd-{id}.scope")),
        _ => parent.join(id),
    }
}

/// The unit whose group a path is.
pub(crate) fn unit_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_the_slices_that_its_name_starts_with() {
        for (parent, path) in [
            ("kubepods.slice", "kubepods.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
            ("/kubepods.slice/kubepods-podx.slice", "kubepods.slice/kubepods-podx.slice"),
        ] {
            assert_eq!(slice_path(parent).expect(parent), Path::new(path));
        }
        for bad in ["/kubepods/pod1", "-.slice", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a b.slice", "ü.slice"]
        {
            assert!(slice_path(bad).is_err(), "{bad}");
        }
        assert!(slice_path(&format!("{}.slice", "a".repeat(250))).is_err());
        let own = own_slice(Path::new("/podd-cri"), "abc");
        assert_eq!(slice_path(&own).expect("own"), Path::new("podd.slice/podd-cri.slice/podd-cri-podabc.slice"));
    }

    #[test]
    fn containers_are_scopes_in_slices_and_plain_groups_elsewhere() {
        assert_eq!(leaf(Path::new("a.slice"), "x"), Path::new("a.slice/podd-x.scope"));
        assert_eq!(leaf(Path::new("kubepods/pod1"), "x"), Path::new("kubepods/pod1/x"));
    }
}
