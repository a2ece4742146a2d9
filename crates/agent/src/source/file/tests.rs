//! Directories of manifests, good and bad.

use std::fs;

use tempfile::TempDir;

use super::*;

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: c, image: {image}}}\n"
    )
}

struct Place {
    directory: TempDir,
    listing: Listing,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listing = Listing::new(directory.path().to_owned(), "n1".into());
        Self { directory, listing }
    }

    fn write(&self, name: &str, content: &str) {
        // As editors do: a new inode, so that no two versions have one stamp.
        let aside = self.directory.path().join(format!(".{name}.swp"));
        fs::write(&aside, content).expect("written");
        fs::rename(&aside, self.directory.path().join(name)).expect("renamed");
    }

    /// Names of the pods and number of reports.
    fn scan(&mut self) -> (Vec<String>, Vec<String>) {
        let scan = self.listing.scan(Timestamp::UNIX_EPOCH).expect("listed");
        (scan.pods.iter().map(|pod| full_name(pod)).collect(), scan.reports)
    }
}

#[test]
fn every_file_is_a_pod_but_hidden_ones_directories_and_pipes() {
    let mut place = Place::new();
    place.write("b.yaml", &manifest("b", "x"));
    place.write("a.json", &manifest("a", "x"));
    fs::write(place.directory.path().join(".c.yaml"), manifest("c", "x")).expect("written");
    fs::create_dir(place.directory.path().join("d.yaml")).expect("made");
    let pipe = place.directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
    assert_eq!(place.scan(), (vec!["default/a-n1".into(), "default/b-n1".into()], vec![]));
}

#[test]
fn a_missing_directory_is_empty() {
    let mut listing = Listing::new("/nowhere/at/all".into(), "n1".into());
    assert!(listing.scan(Timestamp::UNIX_EPOCH).expect("listed").pods.is_empty());
}

#[test]
fn a_bad_file_is_reported_once_and_disturbs_nobody() {
    let mut place = Place::new();
    place.write("good.yaml", &manifest("good", "x"));
    place.write("bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: []}\n");
    let (pods, reports) = place.scan();
    assert_eq!((pods.len(), reports.len()), (1, 1));
    assert!(reports[0].contains("bad.yaml:"), "{}", reports[0]);
    assert_eq!(place.scan().1.len(), 0, "reported again");
    place.write("bad.yaml", "still: bad");
    assert_eq!(place.scan().1.len(), 1, "a new version is reported anew");
    place.write("bad.yaml", &manifest("bad", "x"));
    assert_eq!(place.scan().0.len(), 2);
}

#[test]
fn a_slip_in_an_edit_keeps_the_pod_until_the_file_is_gone() {
    let mut place = Place::new();
    place.write("a.yaml", &manifest("a", "x"));
    place.scan();
    place.write("a.yaml", "apiVersion: v1\nkind: Po");
    let (pods, reports) = place.scan();
    assert_eq!((pods.len(), reports.len()), (1, 1));
    fs::remove_file(place.directory.path().join("a.yaml")).expect("removed");
    assert_eq!(place.scan().0.len(), 0);
}

#[test]
fn an_edit_makes_another_pod_and_a_touch_does_not() {
    let mut place = Place::new();
    let uids = |place: &mut Place, seconds| {
        let scan = place.listing.scan(Timestamp::from_second(seconds).expect("a time")).expect("listed");
        scan.pods[0]
            .metadata
            .uid
            .clone()
            .zip(super::super::annotation_of(&scan.pods[0], super::super::annotation::SEEN).map(str::to_owned))
    };
    place.write("a.yaml", &manifest("a", "x"));
    let first = uids(&mut place, 1);
    place.write("a.yaml", &format!("# a comment\n{}", manifest("a", "x")));
    assert_eq!(uids(&mut place, 2), first);
    place.write("a.yaml", &manifest("a", "other"));
    assert_ne!(uids(&mut place, 3).map(|pair| pair.0), first.map(|pair| pair.0));
}

#[test]
fn of_two_files_with_one_pod_name_the_first_wins_and_the_other_is_named() {
    let mut place = Place::new();
    place.write("1.yaml", &manifest("a", "x"));
    place.write("2.yaml", &manifest("a", "other"));
    let (pods, reports) = place.scan();
    assert_eq!((pods.len(), reports.len()), (1, 1));
    assert!(reports[0].contains("2.yaml") && reports[0].contains("1.yaml"), "{}", reports[0]);
    assert_eq!(place.scan().1.len(), 0);
    fs::remove_file(place.directory.path().join("1.yaml")).expect("removed");
    assert_eq!(place.scan(), (vec!["default/a-n1".into()], vec![]));
}

#[test]
fn a_link_to_a_manifest_is_followed() {
    let mut place = Place::new();
    fs::write(place.directory.path().join(".real"), manifest("a", "x")).expect("written");
    std::os::unix::fs::symlink(".real", place.directory.path().join("a.yaml")).expect("linked");
    assert_eq!(place.scan().0.len(), 1);
}

#[tokio::test]
async fn a_new_file_is_told_within_moments_and_the_source_is_synced_at_once() {
    let place = Place::new();
    let (recorder, mut records) = Recorder::queue(10);
    let (changes, mut told) = mpsc::channel(10);
    let shutdown = CancellationToken::new();
    let hour = Duration::from_secs(3600);
    let task = tokio::spawn(run(place.directory.path().into(), "n1".into(), hour, recorder, changes, shutdown.clone()));
    let mut next = async || match told.recv().await {
        Some((Source::File, Change::All(pods))) => pods.len(),
        other => panic!("{other:?}"),
    };
    let ten = Duration::from_secs(10);
    assert_eq!(tokio::time::timeout(ten, next()).await.expect("synced"), 0);
    place.write("a.yaml", &manifest("a", "x"));
    assert_eq!(tokio::time::timeout(ten, next()).await.expect("told"), 1);
    place.write("bad.yaml", "bad");
    let record = tokio::time::timeout(ten, records.recv()).await.expect("in time").expect("recorded");
    assert_eq!(record.reason, "FailedValidation");
    shutdown.cancel();
    task.await.expect("ended");
}
