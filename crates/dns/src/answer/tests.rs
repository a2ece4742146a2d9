//! Questions and answers, and bytes that are neither.

use super::*;
use crate::table::{Entry, Table};

fn index() -> Index {
    let entry = |namespace: &str, name: &str, addresses: &[&str]| Entry {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
    };
    Index::new(Table::new(
        "cluster.local",
        vec![
            entry("default", "web", &["10.85.0.3"]),
            entry("default", "db-0.db", &["10.85.0.4"]),
            entry("shop", "web", &["10.85.0.5", "fd00::5"]),
        ],
    ))
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::query();
    query.metadata.id = 7;
    query.metadata.recursion_desired = true;
    let mut question = hickory_proto::op::Query::new();
    question.name = Name::from_str(name).expect("a name");
    question.query_type = kind;
    query.add_query(question);
    query.to_vec().expect("a message")
}

/// The answer as text: the code, then the records; or `forward`, `ignore`.
fn asked(name: &str, kind: RecordType, client: &str) -> String {
    match answer(&query(name, kind), client.parse().expect("an address"), &index(), true) {
        Reply::Forward => "forward".to_owned(),
        Reply::Ignore => "ignore".to_owned(),
        Reply::Answer(bytes) => {
            let response = Message::from_vec(&bytes).expect("a message");
            assert_eq!((response.metadata.id, response.metadata.message_type), (7, MessageType::Response));
            assert!(response.metadata.recursion_available && response.metadata.recursion_desired);
            assert!(response.answers.iter().all(|record| record.ttl == 0));
            let records: Vec<String> = response.answers.iter().map(|record| record.data.to_string()).collect();
            format!("{} {}", response.metadata.response_code, records.join(" ")).trim_end().to_owned()
        }
    }
}

#[test]
fn names_have_the_addresses_of_the_table() {
    use RecordType::{A, AAAA, PTR};
    let (pod, stranger) = ("10.85.0.5", "192.0.2.1");
    let table = [
        ("web.default.svc.cluster.local.", A, pod, "No Error 10.85.0.3"),
        ("WEB.Default.SVC.cluster.local.", A, pod, "No Error 10.85.0.3"),
        ("web.shop.svc.cluster.local.", AAAA, pod, "No Error fd00::5"),
        ("web.default.svc.cluster.local.", AAAA, pod, "No Error"),
        ("db-0.db.default.svc.cluster.local.", A, pod, "No Error 10.85.0.4"),
        ("db.default.svc.cluster.local.", A, pod, "No Error"),
        ("none.default.svc.cluster.local.", A, pod, "Non-Existent Domain"),
        ("web.none.svc.cluster.local.", A, pod, "Non-Existent Domain"),
        ("default.svc.cluster.local.", A, pod, "No Error"),
        ("example.com.cluster.local.", A, pod, "Non-Existent Domain"),
        ("web.", A, pod, "No Error 10.85.0.5"),
        ("web.", A, stranger, "forward"),
        ("web.default.", A, pod, "No Error 10.85.0.3"),
        ("example.com.", A, pod, "forward"),
        ("10-85-0-3.default.pod.cluster.local.", A, pod, "No Error 10.85.0.3"),
        ("10-85-0-3.shop.pod.cluster.local.", A, pod, "Non-Existent Domain"),
        ("3.0.85.10.in-addr.arpa.", PTR, pod, "No Error web.default.svc.cluster.local."),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            pod,
            "No Error web.shop.svc.cluster.local.",
        ),
        ("1.2.0.192.in-addr.arpa.", PTR, pod, "forward"),
    ];
    for (name, kind, client, wanted) in table {
        assert_eq!(asked(name, kind, client), wanted, "{name} {kind} from {client}");
    }
}

#[test]
fn a_no_is_not_kept_either() {
    let Reply::Answer(bytes) =
        answer(&query("none.default.svc.cluster.local.", RecordType::A), [10, 85, 0, 3].into(), &index(), true)
    else {
        panic!("no answer")
    };
    let response = Message::from_vec(&bytes).expect("a message");
    let [record] = response.authorities.as_slice() else { panic!("{response:?}") };
    let RData::SOA(soa) = &record.data else { panic!("{record:?}") };
    assert_eq!((record.ttl, soa.minimum), (0, 0));
}

#[test]
fn an_answer_that_does_not_fit_asks_for_tcp() {
    let addresses = (0..200).map(|n| IpAddr::from([10, 85, 1, n])).collect();
    let entry = Entry { namespace: "default".to_owned(), name: "many".to_owned(), addresses };
    let index = Index::new(Table::new("cluster.local", vec![entry]));
    let ask = |udp| match answer(
        &query("many.default.svc.cluster.local.", RecordType::A),
        [10, 85, 0, 3].into(),
        &index,
        udp,
    ) {
        Reply::Answer(bytes) => (bytes.len(), Message::from_vec(&bytes).expect("a message")),
        other => panic!("{other:?}"),
    };
    let (length, cut) = ask(true);
    assert!(length <= 512 && cut.metadata.truncation && cut.answers.is_empty(), "{length} {cut:?}");
    assert_eq!(cut.metadata.id, 7);
    assert_eq!(ask(false).1.answers.len(), 200);
}

#[test]
fn what_is_no_query_gets_no_answer_or_one_that_says_so() {
    let client = [10, 85, 0, 3].into();
    let code = |bytes: &[u8]| match answer(bytes, client, &index(), true) {
        Reply::Answer(bytes) => Message::from_vec(&bytes).expect("a message").metadata.response_code.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(code(&[]), "Ignore");
    assert_eq!(code(&[0; 5]), "Ignore");
    assert_eq!(code(&[0xff; 40]), "Ignore");
    let mut torn = query("web.default.svc.cluster.local.", RecordType::A);
    torn.truncate(20);
    assert_eq!(code(&torn), "Form Error");
    let mut response = query("web.default.svc.cluster.local.", RecordType::A);
    response[2] |= 0x80;
    assert_eq!(code(&response), "Ignore");
}
