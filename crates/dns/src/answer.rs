//! What a question means, and the answer. Pure: bytes and a table in, bytes out.
//!
//! | question | answer |
//! |---|---|
//! | `NAME.NAMESPACE.svc.DOMAIN` | the addresses of that name |
//! | `A-B-C-D.NAMESPACE.pod.DOMAIN` | that address, if a pod of the namespace has it |
//! | anything else in the domain | no such name |
//! | `NAME`, `NAME.NAMESPACE` | as `….svc.DOMAIN`, if that is known: `NAME` in the namespace of the pod that asks |
//! | an address, backwards | the name of the pod that has it |
//! | anything else | passed on |

use std::net::IpAddr;
use std::str::FromStr as _;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::table::Index;

/// The lifetime of our answers in seconds: an address may be another pod's a moment later.
const LIFETIME: u32 = 0;
/// The largest answer over UDP to a client that does not say what it takes (RFC 1035).
const PLAIN_UDP: u16 = 512;
/// The largest answer over UDP in any case: what passes a link of 1280 bytes whole.
const MOST_UDP: u16 = 1232;

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Somebody else knows.
    Forward,
    /// It is no query: silence.
    Ignore,
}

/// The answer to a query that came from `client`, over UDP or TCP.
pub(crate) fn answer(query: &[u8], client: IpAddr, index: &Index, udp: bool) -> Reply {
    let Ok(query) = Message::from_vec(query) else {
        return malformed(query);
    };
    if query.metadata.message_type != MessageType::Query {
        return Reply::Ignore;
    }
    let [question] = query.queries.as_slice() else {
        return failure(&query, ResponseCode::FormErr);
    };
    if query.metadata.op_code != OpCode::Query {
        return failure(&query, ResponseCode::NotImp);
    }
    if question.query_class != DNSClass::IN {
        return Reply::Forward;
    }
    let labels: Vec<String> =
        question.name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let found = match find(&labels, client, index) {
        Found::NotOurs => return Reply::Forward,
        found => found,
    };
    let mut response = head(&query);
    response.metadata.authoritative = true;
    let record = |data| Record::from_rdata(question.name.clone(), LIFETIME, data);
    match &found {
        Found::Addresses(addresses) => {
            let wanted = |address: &&IpAddr| match question.query_type {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                kind => kind == RecordType::ANY,
            };
            response.add_answers(addresses.iter().filter(wanted).map(|address| {
                record(match address {
                    IpAddr::V4(address) => RData::A(A(*address)),
                    IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
                })
            }));
        }
        Found::Pointer(name) => {
            if let (RecordType::PTR | RecordType::ANY, Ok(name)) = (question.query_type, Name::from_str(name)) {
                response.add_answer(record(RData::PTR(PTR(name))));
            }
        }
        Found::Nothing => response.metadata.response_code = ResponseCode::NXDomain,
        Found::Empty | Found::NotOurs => {}
    }
    if response.answers.is_empty() {
        response.add_authorities(authority(index));
    }
    encode(&response, udp.then(|| room(&query)))
}

/// The answer when nobody could be asked.
pub(crate) fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    match failure(&query, ResponseCode::ServFail) {
        Reply::Answer(bytes) => Some(bytes),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Addresses(Vec<IpAddr>),
    Pointer(String),
    /// The name is ours and there, without records of its own.
    Empty,
    /// The name is ours and not there.
    Nothing,
    NotOurs,
}

fn find(labels: &[String], client: IpAddr, index: &Index) -> Found {
    if let Some(inside) = labels.strip_suffix(index.domain.as_slice()).filter(|_| !index.domain.is_empty()) {
        return find_in_domain(inside, index);
    }
    let known = |namespace: &str, name: &str| index.find(namespace, name).map(<[IpAddr]>::to_vec);
    let short = match labels {
        [name] => index.owner(client).and_then(|(namespace, _)| known(namespace, name)),
        [name, namespace] => known(namespace, name),
        _ => None,
    };
    if let Some(addresses) = short {
        return Found::Addresses(addresses);
    }
    match backwards(labels).and_then(|address| index.owner(address)) {
        Some((namespace, name)) => Found::Pointer(format!("{name}.{namespace}.svc.{}.", index.domain.join("."))),
        None => Found::NotOurs,
    }
}

fn find_in_domain(labels: &[String], index: &Index) -> Found {
    match labels {
        [] => Found::Empty,
        [kind] if kind == "svc" || kind == "pod" => Found::Empty,
        [namespace, kind] if (kind == "svc" || kind == "pod") && index.has_namespace(namespace) => Found::Empty,
        [name @ .., namespace, kind] if kind == "svc" => {
            let name = name.join(".");
            match index.find(namespace, &name) {
                Some(addresses) => Found::Addresses(addresses.to_vec()),
                None if index.has_below(namespace, &name) => Found::Empty,
                None => Found::Nothing,
            }
        }
        [address, namespace, kind] if kind == "pod" => {
            let parsed = dashed(address).filter(|a| index.owner(*a).is_some_and(|(of, _)| of == namespace));
            parsed.map_or(Found::Nothing, |address| Found::Addresses(vec![address]))
        }
        _ => Found::Nothing,
    }
}

/// `10-85-0-3` or `fd00--3`.
fn dashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse().ok().or_else(|| label.replace('-', ":").parse().ok())
}

/// The address of `3.0.85.10.in-addr.arpa`, and of 32 nibbles before `ip6.arpa`.
fn backwards(labels: &[String]) -> Option<IpAddr> {
    match labels {
        [digits @ .., family, arpa] if arpa == "arpa" && family == "in-addr" && digits.len() == 4 => {
            digits.iter().rev().map(String::as_str).collect::<Vec<_>>().join(".").parse().ok()
        }
        [digits @ .., family, arpa] if arpa == "arpa" && family == "ip6" && digits.len() == 32 => {
            let nibbles: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
            nibbles.chunks(4).map(<[&str]>::concat).collect::<Vec<_>>().join(":").parse().ok()
        }
        _ => None,
    }
}

/// A response to `query` with its question and without records.
fn head(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MOST_UDP);
        response.set_edns(edns);
    }
    response
}

fn failure(query: &Message, code: ResponseCode) -> Reply {
    let mut response = head(query);
    response.metadata.response_code = code;
    encode(&response, None)
}

/// A query that cannot be read is told so, if it has a head at all.
fn malformed(query: &[u8]) -> Reply {
    match query {
        [a, b, flags, ..] if query.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*a, *b]);
            encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), None)
        }
        _ => Reply::Ignore,
    }
}

fn authority(index: &Index) -> Option<Record> {
    let domain = Name::from_str(&format!("{}.", index.domain.join("."))).ok()?;
    let server = Name::from_str("ns.dns").and_then(|name| name.append_domain(&domain)).ok()?;
    let mail = Name::from_str("hostmaster").and_then(|name| name.append_domain(&domain)).ok()?;
    // Nobody transfers the zone, so the numbers but the last, the lifetime of a "no", mean nothing.
    let data = SOA::new(server, mail, 1, 7200, 1800, 86400, LIFETIME);
    Some(Record::from_rdata(domain, LIFETIME, RData::SOA(data)))
}

/// How large an answer over UDP may be.
fn room(query: &Message) -> usize {
    query.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, MOST_UDP)).into()
}

/// The bytes; cut, with the mark that asks for TCP, where they do not fit.
fn encode(response: &Message, room: Option<usize>) -> Reply {
    match response.to_vec() {
        Ok(bytes) if room.is_none_or(|room| bytes.len() <= room) => Reply::Answer(bytes),
        Ok(_) => response.truncate().to_vec().map_or(Reply::Ignore, Reply::Answer),
        Err(_) => Reply::Ignore,
    }
}

#[cfg(test)]
mod tests;
