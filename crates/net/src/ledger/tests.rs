//! Leases on disk: torn lines, crashes, and an address for one pod alone.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::ports::Protocol;

fn open_in(directory: &Path) -> Ledger {
    Ledger::open(directory, &["10.0.0.0/28".parse().unwrap()]).unwrap()
}

fn port(host_port: u16) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, host_ip: None, host_port, container_port: 80 }
}

fn sysctl(boot: &str, old: &str) -> Sysctl {
    Sysctl { name: "net.ipv4.ip_forward".into(), old: old.into(), new: "1".into(), boot: boot.into() }
}

#[test]
fn what_was_noted_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open_in(directory.path());
    let a = ledger.take("a", &[port(80)]).unwrap();
    let b = ledger.take("b", &[]).unwrap();
    ledger.note_change(sysctl("boot", "0")).unwrap();
    ledger.note_change(sysctl("boot", "1")).unwrap();
    ledger.free("a").unwrap();
    assert_eq!(ledger.take("b", &[]).unwrap(), b, "once");
    for _ in 0..2 {
        let mut again = open_in(directory.path());
        assert_eq!(again.leases().collect::<Vec<_>>(), [&b]);
        assert_eq!(again.changed(), [sysctl("boot", "0")], "the first is the one to go back to");
        let c = again.take("c", &[]).unwrap();
        assert!(![&a, &b].iter().any(|lease| lease.addresses == c.addresses), "the turn goes on");
        again.free("c").unwrap();
    }
    let mut again = open_in(directory.path());
    again.note_restored().unwrap();
    assert!(open_in(directory.path()).changed().is_empty());
}

#[test]
fn holders_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open_in(directory.path());
    ledger.take("a", &[port(80)]).unwrap();
    let holders = ledger.holders();
    assert_eq!((holders[0].port, holders[0].holder.as_str()), (80, "sandbox a"));
}

#[test]
fn a_torn_last_line_never_was_and_damage_in_the_midst_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open_in(directory.path());
    ledger.take("a", &[]).unwrap();
    ledger.take("b", &[]).unwrap();
    let path = directory.path().join(FILE);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let mut torn = open_in(directory.path());
    assert_eq!(torn.leases().map(|lease| lease.sandbox.as_str()).collect::<Vec<_>>(), ["a"]);
    torn.take("c", &[]).unwrap();
    assert_eq!(open_in(directory.path()).leases().count(), 2);
    fs::write(&path, whole.replacen("{\"lease\"", "{\"lea?e\"", 1)).unwrap();
    let error = Ledger::open(directory.path(), &["10.0.0.0/28".parse().unwrap()]).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("line 2 is damaged"), "{error}: {source}");
}

#[test]
fn a_newer_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), "{\"version\":2}\n{\"strange\":1}\n{\"version\":2}\n").unwrap();
    let error = Ledger::open(directory.path(), &["10.0.0.0/28".parse().unwrap()]).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("version 2"), "{error:?}");
}

#[test]
fn history_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open_in(directory.path());
    let kept = ledger.take("kept", &[]).unwrap();
    for _ in 0..HISTORY_MAX {
        ledger.take("a", &[]).unwrap();
        ledger.free("a").unwrap();
    }
    let lines = fs::read_to_string(directory.path().join(FILE)).unwrap().lines().count();
    assert!(lines < HISTORY_MAX + 8, "{lines}");
    assert_eq!(open_in(directory.path()).leases().collect::<Vec<_>>(), [&kept]);
}

#[test]
fn a_lease_known_from_elsewhere_is_taken_over_unless_its_address_is_anothers() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open_in(directory.path());
    let a = ledger.take("a", &[]).unwrap();
    let lease = |sandbox: &str, address: &str| Lease {
        sandbox: sandbox.into(),
        addresses: vec![address.parse().unwrap()],
        ports: vec![],
    };
    assert!(!ledger.adopt(Lease { sandbox: "b".into(), ..a.clone() }).unwrap());
    assert!(ledger.adopt(lease("b", "10.0.0.9")).unwrap());
    // An address of a subnet that was configured before.
    assert!(ledger.adopt(lease("old", "10.7.0.9")).unwrap());
    let mut again = open_in(directory.path());
    assert_eq!(again.leases().count(), 3);
    let others: Vec<Lease> = (0..11).map(|at| again.take(&format!("x{at}"), &[]).unwrap()).collect();
    assert!(others.iter().all(|lease| lease.addresses != a.addresses && lease.addresses[0].to_string() != "10.0.0.9"));
    assert!(matches!(again.take("more", &[]), Err(Error::NoAddress { limit: 13, .. })));
}

/// What may happen to an agent.
#[derive(Debug, Clone)]
enum Event {
    Take(u8),
    Free(u8),
    /// The agent is killed and starts anew.
    Crash,
    /// The same, in the midst of a write: this many bytes of the last line are missing.
    Torn(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..20_u8).prop_map(Event::Take),
        3 => (0..20_u8).prop_map(Event::Free),
        1 => Just(Event::Crash),
        1 => (1..80_u8).prop_map(Event::Torn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_pods_ever_share_an_address(events in proptest::collection::vec(event(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut ledger = open_in(directory.path());
        // Pods whose attach has returned and whose detach has not begun: those that use their address.
        let mut live: BTreeMap<String, IpAddr> = BTreeMap::new();
        for event in events {
            match event {
                Event::Take(pod) => {
                    let id = format!("pod-{pod}");
                    match ledger.take(&id, &[]) {
                        Ok(lease) => {
                            if let Some(had) = live.insert(id, lease.addresses[0]) {
                                prop_assert_eq!(had, lease.addresses[0]);
                            }
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, Error::NoAddress { .. }), "{}", error);
                            prop_assert_eq!(live.len(), 13);
                        }
                    }
                }
                Event::Free(pod) => {
                    let id = format!("pod-{pod}");
                    live.remove(&id);
                    ledger.free(&id).unwrap();
                }
                Event::Crash => ledger = open_in(directory.path()),
                Event::Torn(bytes) => {
                    // Of a take that never returned.
                    let before = ledger.length;
                    if ledger.take("torn", &[]).is_err() {
                        continue;
                    }
                    let cut = ledger.length.saturating_sub(u64::from(bytes)).max(before);
                    drop(ledger);
                    File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
                    ledger = open_in(directory.path());
                    ledger.free("torn").unwrap();
                }
            }
            let distinct: HashSet<&IpAddr> = live.values().collect();
            prop_assert_eq!(distinct.len(), live.len());
            let noted: BTreeMap<String, IpAddr> =
                ledger.leases().map(|lease| (lease.sandbox.clone(), lease.addresses[0])).collect();
            prop_assert_eq!(&noted, &live);
        }
    }
}
