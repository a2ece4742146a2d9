//! Layers, honest and hostile, unpacked into a directory that has a neighbour worth attacking.

mod trees;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tar::Header;

use super::*;

/// A tar stream in the making. Unlike the `tar` crate's builder it writes whatever it is told.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.pad();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, path, "", data.as_bytes(), |_| {})
    }

    fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"", |header| header.set_mode(0o755))
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"", |_| {})
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"", |_| {})
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.entry(EntryType::XHeader, "pax", "", &data, |_| {})
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A layer's directory, and beside it one that must never change.
struct Place {
    outer: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("layer")).unwrap();
        fs::create_dir(outer.path().join("outside")).unwrap();
        fs::write(outer.path().join("outside/secret"), "secret").unwrap();
        fs::set_permissions(outer.path().join("outside/secret"), fs::Permissions::from_mode(0o600)).unwrap();
        Place { outer }
    }

    fn layer(&self) -> PathBuf {
        self.outer.path().join("layer")
    }

    fn outside(&self) -> String {
        self.outer.path().join("outside").to_str().unwrap().to_owned()
    }

    fn unpack(&self, archive: &[u8], limits: &Limits) -> Result<Size, Error> {
        unpack(archive, &self.layer(), "layer x", limits)
    }

    fn check_outside(&self, case: &str) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{case}: a name outside of the layer");
        let secret = self.outer.path().join("outside/secret");
        assert_eq!(fs::read(&secret).unwrap(), b"secret", "{case}: content outside of the layer");
        let metadata = fs::metadata(&secret).unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (1, 0o600), "{case}: a file outside of the layer");
        assert_eq!(fs::read_dir(self.outer.path()).unwrap().count(), 2, "{case}: a name beside the layer");
    }
}

/// Unpacks with default limits what must be accepted.
fn unpacked(archive: Archive) -> Place {
    let place = Place::new();
    place.unpack(&archive.end(), &Limits::default()).unwrap();
    place.check_outside("an honest layer");
    place
}

fn read(place: &Place, path: &str) -> String {
    fs::read_to_string(place.layer().join(path)).unwrap()
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn a_hostile_entry_is_refused_and_nothing_outside_changes() {
    let secret = "/etc/hostname";
    for (case, archive, reason) in [
        ("dots", Archive::default().file("../outside/new", "x"), "'..'"),
        ("dots inside", Archive::default().file("a/../../outside/new", "x"), "'..'"),
        ("dots that stay inside", Archive::default().file("a/../b", "x"), "'..'"),
        ("a directory by dots", Archive::default().directory("../outside/new"), "'..'"),
        ("a whiteout by dots", Archive::default().file("../outside/.wh.secret", ""), "'..'"),
        ("a whiteout of the parent", Archive::default().file("a/.wh...", ""), "must name what it hides"),
        ("a whiteout of itself", Archive::default().file("a/.wh..", ""), "must name what it hides"),
        ("a whiteout of nothing", Archive::default().file("a/.wh.", ""), "must name what it hides"),
        ("a hard link by dots", Archive::default().link("x", "../outside/secret"), "'..'"),
        ("a hard link to what is not there", Archive::default().link("x", secret), "link to the target"),
        ("a hard link to the root", Archive::default().link("x", "/"), "root"),
        ("a hard link to a directory", Archive::default().directory("d").link("x", "d"), "make hard link"),
        ("a link without a target", Archive::default().link("x", ""), "without a target"),
        ("a symlink without a target", Archive::default().symlink("x", ""), "without a target"),
        ("a file as the root", Archive::default().file("./", "x"), "root"),
        ("a link as the root", Archive::default().symlink("/", "/etc"), "root"),
        ("a link loop", Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", "x"), "directory"),
        ("a file as a parent", Archive::default().file("a", "").file("a/b", "x"), "directory"),
        ("an unknown kind", Archive::default().entry(EntryType::new(b'Z'), "x", "", b"", |_| {}), "entry type 'Z'"),
        (
            "the owner that means nobody",
            Archive::default().entry(EntryType::Regular, "x", "", b"", |h| h.set_uid(u64::from(u32::MAX))),
            "owner",
        ),
        ("dots by a PAX path", Archive::default().pax(&[("path", b"../outside/new")]).file("harmless", "x"), "'..'"),
        ("a NUL by a PAX path", Archive::default().pax(&[("path", b"a\0b")]).file("harmless", "x"), "NUL"),
        (
            "a hard link by a PAX linkpath",
            Archive::default().pax(&[("linkpath", b"../outside/secret")]).link("x", "harmless"),
            "'..'",
        ),
        ("a part that is too long", Archive::default().pax(&[("path", &[b'n'; 300])]).file("x", "x"), "too long"),
    ] {
        let place = Place::new();
        let error = place.unpack(&archive.end(), &Limits::default()).expect_err(case);
        assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{case}: {error}");
        assert!(error.to_string().contains(reason), "{case}: {error}");
        assert!(error.to_string().contains("layer x"), "{case}: {error}");
        place.check_outside(case);
    }
}

#[test]
fn a_path_through_a_link_never_leaves_the_layer() {
    for up in [false, true] {
        let place = Place::new();
        let outside = match up {
            true => "../../../../../../../../../../".to_owned() + &place.outside()[1..],
            false => place.outside(),
        };
        let through = Archive::default().symlink("out", &outside);
        for (case, archive) in [
            ("a file", through.clone().file("out/new", "x")),
            ("an existing file", through.clone().file("out/secret", "x")),
            ("a directory", through.clone().directory("out/new")),
            ("the link as a directory", through.clone().directory("out").file("out/secret", "x")),
            ("a whiteout", through.clone().file("out/.wh.secret", "")),
            ("an opaque directory", through.clone().file("out/.wh..wh..opq", "")),
            ("a hard link out of it", through.clone().link("stolen", "out/secret")),
            ("a hard link into it", through.clone().file("x", "x").link("out/secret", "x")),
            ("a symlink in it", through.clone().symlink("out/secret", "x")),
            ("a device in it", through.clone().entry(EntryType::Fifo, "out/secret", "", b"", |_| {})),
            ("a link to the link", through.clone().symlink("again", "out").file("again/secret", "x")),
            (
                "a file that follows a link of its name",
                Archive::default().symlink("f", &(outside.clone() + "/secret")).file("f", "x"),
            ),
            (
                "a hard link to a link, then written",
                Archive::default().symlink("f", &(outside.clone() + "/secret")).link("g", "f").file("g", "x"),
            ),
            (
                "a directory that a link replaces",
                Archive::default().file("d/secret", "x").symlink("d", &outside).file("d/secret", "y"),
            ),
            (
                "a directory that a link replaces while its descriptor is kept",
                Archive::default().directory("d/e").symlink("d", &outside).file("d/e/secret", "y"),
            ),
        ] {
            let place_of_case = Place::new();
            // The links name the first place's neighbour; both must stay as they are.
            place_of_case.unpack(&archive.end(), &Limits::default()).ok();
            place_of_case.check_outside(case);
            place.check_outside(case);
            assert!(!place_of_case.layer().join("stolen").exists(), "{case}");
        }
    }
}

#[test]
fn absolute_paths_and_links_within_the_layer_mean_its_own_root() {
    let place = unpacked(
        Archive::default().directory("usr/lib").symlink("lib", "/usr/lib").file("/lib/a", "1").file("//lib/./b", "2"),
    );
    assert_eq!(read(&place, "usr/lib/a") + &read(&place, "usr/lib/b"), "12");
}

#[test]
fn whiteouts_become_what_overlay_understands() {
    let place = unpacked(
        Archive::default()
            .file("a/.wh.gone", "")
            .file(".wh.top", "")
            .file("o/.wh..wh..opq", "")
            .file("o/new", "x")
            .file("a/.wh..wh.plnk", ""),
    );
    let layer = place.layer();
    assert!(is_whiteout(&layer.join("a/gone")));
    assert!(is_whiteout(&layer.join("top")));
    assert_eq!(xattr(&layer.join("o"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr(&layer.join("a"), "trusted.overlay.opaque"), None);
    assert_eq!(read(&place, "o/new"), "x");
    assert_eq!(fs::read_dir(layer.join("a")).unwrap().count(), 1, "other AUFS names mean nothing");
}

#[test]
fn a_whiteout_beside_what_replaces_it_hides_only_lower_layers() {
    for (case, archive) in [
        ("before", Archive::default().file(".wh.d", "").directory("d").file("d/new", "x")),
        ("after", Archive::default().directory("d").file("d/new", "x").file(".wh.d", "")),
    ] {
        let place = unpacked(archive);
        assert_eq!(read(&place, "d/new"), "x", "{case}");
        let opaque = xattr(&place.layer().join("d"), "trusted.overlay.opaque");
        assert_eq!(opaque.as_deref(), Some(&b"y"[..]), "{case}: the lower directory would show through");
    }
    for archive in
        [Archive::default().file(".wh.f", "").file("f", "x"), Archive::default().file("f", "x").file(".wh.f", "")]
    {
        assert_eq!(read(&unpacked(archive), "f"), "x");
    }
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    let place = unpacked(
        Archive::default()
            .file("file", "old and longer")
            .link("kept", "file")
            .file("file", "new")
            .directory("d")
            .file("d/x", "x")
            .file("d", "now a file")
            .symlink("l", "file")
            .file("l", "now a file too")
            .file("e", "")
            .directory("e")
            .file("e/x", "below"),
    );
    assert_eq!(read(&place, "file"), "new");
    assert_eq!(read(&place, "kept"), "old and longer");
    assert_eq!(read(&place, "d"), "now a file");
    assert_eq!(read(&place, "l"), "now a file too");
    assert_eq!(read(&place, "e/x"), "below");
}

#[test]
fn a_directory_that_went_and_came_back_is_a_new_one() {
    let place = unpacked(
        Archive::default().file("d/e/old", "x").file("d", "a file between").directory("d").file("d/e/new", "x"),
    );
    assert_eq!(read(&place, "d/e/new"), "x");
    assert!(!place.layer().join("d/e/old").exists());
}

#[test]
fn a_directory_named_twice_keeps_its_content_and_takes_the_later_attributes() {
    let place = unpacked(Archive::default().directory("d").file("d/x", "x").entry(
        EntryType::Directory,
        "d/",
        "",
        b"",
        |header| header.set_mode(0o1777),
    ));
    assert_eq!(read(&place, "d/x"), "x");
    assert_eq!(fs::metadata(place.layer().join("d")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn owners_modes_and_times_are_the_layers() {
    let with = |mode: u32, uid: u64, gid: u64| {
        move |header: &mut Header| {
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_gid(gid);
        }
    };
    let regular = EntryType::Regular;
    let place = unpacked(
        Archive::default()
            .entry(regular, "setuid", "", b"x", with(0o4755, 0, 0))
            .entry(regular, "owned-setgid", "", b"x", with(0o2755, 1000, 1001))
            .entry(regular, "open", "", b"x", with(0o666, 0, 0))
            .entry(regular, "closed", "", b"x", with(0o000, 7, 8))
            .entry(EntryType::Directory, "shared", "", b"", with(0o2775, 0, 50))
            .entry(regular, "shared/below", "", b"x", with(0o644, 0, 0))
            .entry(EntryType::Symlink, "link", "open", b"", with(0o777, 3, 4))
            .entry(EntryType::Directory, ".", "", b"", with(0o711, 1, 2)),
    );
    for (path, mode, uid, gid) in [
        ("setuid", 0o4755, 0, 0),
        ("owned-setgid", 0o2755, 1000, 1001),
        ("open", 0o666, 0, 0),
        ("closed", 0, 7, 8),
        ("shared", 0o2775, 0, 50),
        ("shared/below", 0o644, 0, 0),
        ("link", 0o777, 3, 4),
        (".", 0o711, 1, 2),
    ] {
        let metadata = fs::symlink_metadata(place.layer().join(path)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (mode, uid, gid), "{path}");
        assert_eq!(metadata.mtime(), 1_000_000_000, "{path}");
    }
}

#[test]
fn devices_and_fifos_are_made_with_the_layers_numbers() {
    let device = |major: u32, minor: u32| {
        move |header: &mut Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
            header.set_mode(0o666);
        }
    };
    let place = unpacked(
        Archive::default()
            .entry(EntryType::Char, "dev/null", "", b"", device(1, 3))
            .entry(EntryType::Block, "dev/loop0", "", b"", device(7, 0))
            .entry(EntryType::Fifo, "pipe", "", b"", |_| {}),
    );
    let null = fs::symlink_metadata(place.layer().join("dev/null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    let block = fs::symlink_metadata(place.layer().join("dev/loop0")).unwrap();
    assert!(block.file_type().is_block_device());
    assert_eq!(block.rdev(), rustix::fs::makedev(7, 0));
    assert!(fs::symlink_metadata(place.layer().join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn extended_attributes_are_kept_where_they_are_harmless() {
    // A capability set of version 2: cap_net_raw, effective.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = unpacked(
        Archive::default()
            .pax(&[
                ("SCHILY.xattr.security.capability", &capability),
                ("SCHILY.xattr.user.note", b"two\nlines"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ])
            .entry(EntryType::Regular, "ping", "", b"x", |header| header.set_uid(5)),
    );
    let ping = place.layer().join("ping");
    assert_eq!(xattr(&ping, "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(xattr(&ping, "user.note").as_deref(), Some(&b"two\nlines"[..]));
    for dropped in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque"] {
        assert_eq!(xattr(&ping, dropped), None, "{dropped}");
    }
}

#[test]
fn names_longer_than_a_header_come_by_gnu_and_pax_entries() {
    let long = ["n".repeat(200), "m".repeat(250), "o".repeat(255)].join("/");
    let gnu = Archive::default().entry(EntryType::GNULongName, "././@LongLink", "", long.as_bytes(), |_| {});
    let gnu_link = Archive::default().entry(EntryType::GNULongLink, "././@LongLink", "", long.as_bytes(), |_| {});
    let pax = Archive::default().pax(&[("path", long.as_bytes())]);
    for archive in [gnu.file("short", "x"), pax.file("short", "x")] {
        assert_eq!(read(&unpacked(archive), &long), "x");
    }
    let place = unpacked(gnu_link.symlink("l", "short"));
    assert_eq!(fs::read_link(place.layer().join("l")).unwrap(), Path::new(&long));
}

#[test]
fn a_limit_stops_a_layer_and_is_named() {
    let tight = Limits { layer_bytes: 1000, layer_entries: 8, depth: 5, entry_header_bytes: 4096, ..Limits::default() };
    let many = (0..9).fold(Archive::default(), |archive, n| archive.file(&format!("f{n}"), ""));
    let implied = Archive::default().file("a/b/c/d/x", "").file("e/f/g/h/x", "");
    let deep = Archive::default().file("1/2/3/4/5/6/7", "");
    let deep_by_link = (0..4).fold(Archive::default(), |archive, n| {
        let name = format!("l{n}");
        match n {
            0 => archive.symlink(&name, "a/b/c"),
            _ => archive,
        }
    });
    let deep_by_link = deep_by_link.directory("a/b/c").directory("l0/d/e/f");
    let wide = Archive::default().file("a", &"x".repeat(600)).file("b", &"x".repeat(600));
    let hole = Archive::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"big"),
            ("GNU.sparse.realsize", b"1000000000000"),
        ])
        .entry(EntryType::Regular, "x", "", &padded(b"0\n"), |_| {});
    let headers = Archive::default().pax(&[("comment", &[b'x'; 8192])]).file("x", "");
    let long_name = Archive::default().entry(EntryType::GNULongName, "l", "", &[b'x'; 8192], |_| {}).file("x", "");
    for (case, archive, limit) in [
        ("entries", many, "layer_entries"),
        ("directories that entries imply", implied, "layer_entries"),
        ("depth", deep, "depth"),
        ("depth through a link", deep_by_link, "depth"),
        ("bytes", wide, "layer_bytes"),
        ("bytes of a hole", hole, "layer_bytes"),
        ("PAX headers", headers, "entry_header_bytes"),
        ("a long name", long_name, "entry_header_bytes"),
    ] {
        let error = Place::new().unpack(&archive.end(), &tight).expect_err(case);
        match error {
            Error::Limit { limit: found, .. } => assert_eq!(found, limit, "{case}"),
            other => panic!("{case}: {other}"),
        }
    }
}

#[test]
fn a_header_that_states_a_huge_size_costs_nothing() {
    let huge = |kind| {
        Archive::default().entry(kind, "x", "", b"", |header| {
            // Base 256, as GNU writes sizes that eight octal digits cannot hold.
            header.as_old_mut().size = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        })
    };
    for kind in [EntryType::Regular, EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        let error = Place::new().unpack(&huge(kind).file("y", "").end(), &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{kind:?}: {error}");
    }
}

#[test]
fn a_stream_that_ends_early_or_is_no_archive_is_refused() {
    let whole = Archive::default().file("a", &"x".repeat(2000)).file("b", "x").0;
    for cut in [1, 511, 513, 1000, 2559, whole.len() - 1] {
        let error = Place::new().unpack(&whole[..cut], &Limits::default()).expect_err(&cut.to_string());
        assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{cut}: {error}");
    }
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let error = Place::new().unpack(&noise, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("tar stream is broken"), "{error}");
    // No end marker at all is how some tools end.
    Place::new().unpack(&whole, &Limits::default()).unwrap();
    Place::new().unpack(b"", &Limits::default()).unwrap();
}

#[test]
fn what_follows_the_end_of_the_archive_is_not_unpacked() {
    let place = Place::new();
    let after = Archive::default().file("late", "x").end();
    let archive = Archive(Archive::default().file("a", "x").end()).raw(&after).0;
    place.unpack(&archive, &Limits::default()).unwrap();
    assert!(place.layer().join("a").exists() && !place.layer().join("late").exists());
}

fn padded(map: &[u8]) -> Vec<u8> {
    let mut map = map.to_vec();
    map.resize(map.len().next_multiple_of(512), 0);
    map
}

#[test]
fn a_bad_map_of_a_sparse_file_is_refused() {
    let sparse = |major: &str, size: &str, map: &[u8]| {
        Archive::default()
            .pax(&[
                ("GNU.sparse.major", major.as_bytes()),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", size.as_bytes()),
            ])
            .entry(EntryType::Regular, "x", "", map, |_| {})
    };
    for (case, archive, reason) in [
        ("version", sparse("0", "10", b""), "not supported"),
        ("no size", sparse("1", "", &padded(b"0\n")), "without its size"),
        ("letters", sparse("1", "10", &padded(b"x\n")), "bad number"),
        ("a number without end", sparse("1", "10", &[b'1'; 1024]), "bad number"),
        ("nothing", sparse("1", "10", b""), "map"),
        ("too many parts", sparse("1", "10", &padded(b"100001\n")), "parts"),
        ("beyond the end", sparse("1", "10", &padded(b"1\n8\n3\n")), "overlap or exceed"),
        ("overlap", sparse("1", "10", &padded(b"2\n0\n5\n4\n1\n")), "overlap or exceed"),
        ("overflow", sparse("1", "10", &padded(b"1\n18446744073709551615\n1\n")), "overlap or exceed"),
        ("missing content", sparse("1", "10", &padded(b"1\n0\n5\n")), "ends early"),
    ] {
        let error = Place::new().unpack(&archive.end(), &Limits::default()).expect_err(case);
        assert!(error.to_string().contains(reason), "{case}: {error}");
    }
    let good = [padded(b"2\n0\n1\n9\n1\n"), b"ab".to_vec()].concat();
    let place = unpacked(sparse("1", "10", &good));
    assert_eq!(read(&place, "s"), "a\0\0\0\0\0\0\0\0b");
}

#[test]
fn a_global_header_and_an_old_directory_are_understood() {
    let global = pax_record("comment", b"0123456789abcdef");
    let place = unpacked(
        Archive::default()
            .entry(EntryType::XGlobalHeader, "pax_global_header", "", &global, |_| {})
            .entry(EntryType::Regular, "d/", "", b"", |header| header.set_mode(0o755))
            .file("d/x", "x"),
    );
    assert_eq!(read(&place, "d/x"), "x");
}

#[test]
fn the_size_counts_every_inode_and_block() {
    let place = Place::new();
    let archive =
        Archive::default().file("d/a", &"x".repeat(5000)).symlink("l", "d").link("h", "d/a").file(".wh.w", "");
    let size = place.unpack(&archive.end(), &Limits::default()).unwrap();
    // The root, `d`, `a`, `l` and the whiteout; two directories and two blocks of `a`.
    assert_eq!(size, Size { bytes: 4 * 4096, inodes: 5 });
}

#[test]
fn numbers_that_are_left_blank_are_zero() {
    let place = unpacked(Archive::default().entry(EntryType::Regular, "x", "", b"x", |header| {
        let old = header.as_old_mut();
        (old.uid, old.gid, old.mtime, old.mode) = ([0; 8], [b' '; 8], [0; 12], [0; 8]);
    }));
    let metadata = fs::metadata(place.layer().join("x")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mtime(), metadata.mode() & 0o7777), (0, 0, 0, 0));
    let letters = Archive::default().entry(EntryType::Regular, "x", "", b"x", |h| h.as_old_mut().uid = *b"letters\0");
    let error = Place::new().unpack(&letters.end(), &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("numeric field"), "{error}");
}

#[test]
fn names_that_are_no_text_are_kept_as_they_are() {
    let name: &[u8] = b"\xff\xfe caf\xe9";
    let place = unpacked(Archive::default().pax(&[("path", name)]).file("x", "x"));
    assert_eq!(fs::read(place.layer().join(std::ffi::OsStr::from_bytes(name))).unwrap(), b"x");
}
