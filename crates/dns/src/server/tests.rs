//! A server on loopback, asked over sockets.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::*;
use crate::table::Entry;

struct Site {
    directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Site {
    /// A server that knows these names, whose node has no name server.
    fn new(names: &[(&str, &str)]) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("resolv.conf"), "search example.test\n").expect("written");
        let listeners = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listeners.address().expect("an address");
        let site = Site { directory, address };
        site.tell(names);
        let options = Options {
            table: site.directory.path().join("names.json"),
            upstream: site.directory.path().join("resolv.conf"),
        };
        tokio::spawn(serve(vec![listeners], options));
        site
    }

    fn tell(&self, names: &[(&str, &str)]) {
        let entry = |(name, address): &(&str, &str)| Entry {
            namespace: "default".into(),
            name: (*name).into(),
            addresses: vec![address.parse().expect("an address")],
        };
        let table = Table::new("cluster.local", names.iter().map(entry).collect());
        table.write(&self.directory.path().join("names.json")).expect("written");
    }

    async fn by_udp(&self, name: &str) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.send_to(&query(name), self.address).await.expect("sent");
        let mut buffer = [0; 4096];
        let received = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.expect("an answer in time");
        Message::from_vec(&buffer[..received.expect("an answer")]).expect("a message")
    }

    async fn by_tcp(stream: &mut TcpStream, name: &str) -> Message {
        let query = query(name);
        let length = u16::try_from(query.len()).expect("short").to_be_bytes();
        stream.write_all(&[&length, query.as_slice()].concat()).await.expect("sent");
        let mut answer = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
        stream.read_exact(&mut answer).await.expect("an answer");
        Message::from_vec(&answer).expect("a message")
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    message.to_vec().expect("a message")
}

fn addresses(message: &Message) -> Vec<String> {
    let address = |data: &RData| match data {
        RData::A(address) => address.to_string(),
        other => other.to_string(),
    };
    message.answers.iter().map(|record| address(&record.data)).collect()
}

#[tokio::test]
async fn names_are_answered_over_udp_and_over_one_connection_one_after_the_other() {
    let site = Site::new(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]);
    assert_eq!(addresses(&site.by_udp("web.default.svc.cluster.local.").await), ["10.0.0.1"]);
    let mut stream = TcpStream::connect(site.address).await.expect("connected");
    for (name, want) in [("web", "10.0.0.1"), ("db", "10.0.0.2")] {
        let answer = Site::by_tcp(&mut stream, &format!("{name}.default.svc.cluster.local.")).await;
        assert_eq!(addresses(&answer), [want]);
    }
}

#[tokio::test]
async fn a_change_of_the_table_is_seen_by_the_next_query_and_a_bad_table_by_none() {
    let site = Site::new(&[("web", "10.0.0.1")]);
    let name = "web.default.svc.cluster.local.";
    assert_eq!(addresses(&site.by_udp(name).await), ["10.0.0.1"]);
    site.tell(&[("web", "10.0.0.9")]);
    assert_eq!(addresses(&site.by_udp(name).await), ["10.0.0.9"]);
    std::fs::write(site.directory.path().join("names.json"), "{").expect("written");
    assert_eq!(addresses(&site.by_udp(name).await), ["10.0.0.9"], "the last good one stays in force");
    site.tell(&[]);
    assert_eq!(site.by_udp(name).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_name_of_elsewhere_without_servers_is_a_failure_and_not_unknown() {
    let site = Site::new(&[]);
    let answer = site.by_udp("example.com.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn the_servers_of_the_node_are_asked_but_never_ourselves() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("resolv.conf");
    let text =
        "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver 10.0.0.1\nnameserver\nnameserver fe80::1%eth0\n";
    std::fs::write(&path, text).expect("written");
    let own = ["10.0.0.1".parse().expect("an address")];
    assert_eq!(upstream::servers(&path, &own), ["192.0.2.1:53".parse().expect("an address")]);
    assert!(upstream::servers(&directory.path().join("none"), &own).is_empty());
}
