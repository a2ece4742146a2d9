//! nftables over nfnetlink: the [`ruleset`](crate::ruleset)'s values as transactions, and what is there read back.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE};
use rustix::io::Errno;

use crate::netlink::{Attributes, Request, Socket, attribute, attributes, errno};
use crate::ruleset::{Chain, Element, Expression, Map, Table};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_INET: u8 = 1;

// enum nf_tables_msg_types
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

const SET_MAP: u32 = 8;
const REGISTER_VERDICT: u32 = 0;
const VERDICT_DROP: i32 = 0;
const VERDICT_JUMP: i32 = -3;
/// Elements in one message: an attribute ends at 64 KiB.
const ELEMENTS_MAX: usize = 200;
/// The longest comment that nft(8) shows.
const COMMENT_MAX: usize = 250;

/// Makes the table anew, in one transaction: what was in it is gone, what it should have is there, and no packet sees a
/// moment between.
pub(crate) fn replace(socket: &mut Socket, table: &Table, elements: &[Element]) -> io::Result<()> {
    let name = &table.name;
    let new_table = request(NEW_TABLE, NLM_F_CREATE, named_table(name).bytes(6, &comment(&table.owner)));
    // Deleting what is not there is an error, so it is made first.
    let mut requests = vec![request(NEW_TABLE, NLM_F_CREATE, named_table(name)), delete_table(name), new_table];
    requests.extend(table.maps.iter().enumerate().map(|(at, map)| new_map(name, map, at as u32 + 1)));
    requests.extend(table.chains.iter().map(|chain| new_chain(name, chain)));
    for chain in &table.chains {
        requests.extend(chain.rules.iter().map(|rule| new_rule(name, chain.name, rule)));
    }
    requests.extend(element_requests(NEW_ELEMENT, name, elements));
    transaction(socket, requests)
}

/// Takes the table away. Fine if there is none.
pub(crate) fn remove(socket: &mut Socket, table: &str) -> io::Result<()> {
    let made = request(NEW_TABLE, NLM_F_CREATE, named_table(table));
    transaction(socket, vec![made, delete_table(table)])
}

/// Adds elements. Fine if they are there.
pub(crate) fn add(socket: &mut Socket, table: &str, elements: &[Element]) -> io::Result<()> {
    transaction(socket, element_requests(NEW_ELEMENT, table, elements))
}

/// Takes elements away. Fine if they, or the table, are gone.
pub(crate) fn delete(socket: &mut Socket, table: &str, elements: &[Element]) -> io::Result<()> {
    let gone = |error: &io::Error| errno(error) == Some(Errno::NOENT);
    match transaction(socket, element_requests(DELETE_ELEMENT, table, elements)) {
        Err(error) if gone(&error) => {
            // One that is missing spoils the transaction: the others go one by one.
            for element in elements {
                let one = element_requests(DELETE_ELEMENT, table, std::slice::from_ref(element));
                transaction(socket, one).or_else(|error| if gone(&error) { Ok(()) } else { Err(error) })?;
            }
            Ok(())
        }
        outcome => outcome,
    }
}

/// The tables of family inet, with their owners.
pub(crate) fn tables(socket: &mut Socket) -> io::Result<Vec<(String, String)>> {
    let answers = socket.dump(&request(GET_TABLE, 0, Attributes::default()))?;
    let table = |body: &[u8]| {
        let attributes = body.get(4..)?;
        let owner = attribute(attributes, 6).and_then(comment_of).unwrap_or_default();
        Some((text(attribute(attributes, 1)?), owner))
    };
    Ok(answers
        .iter()
        .filter(|answer| answer.body.first() == Some(&FAMILY_INET))
        .filter_map(|a| table(&a.body))
        .collect())
}

/// The elements of a map; none if there is no such map.
pub(crate) fn elements(socket: &mut Socket, table: &str, map: &Map) -> io::Result<Vec<Element>> {
    let wanted = request(GET_ELEMENT, 0, Attributes::default().text(1, table).text(2, map.name));
    let answers = match socket.dump(&Request { flags: 0, ..wanted }) {
        Err(error) if errno(&error) == Some(Errno::NOENT) => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let element = |body: &[u8]| {
        let data = |kind| attribute(body, kind).and_then(|data| attribute(data, 1)).map(<[u8]>::to_vec);
        let comment = attribute(body, 6).and_then(comment_of).unwrap_or_default();
        Some(Element { map: map.name, key: data(1)?, value: data(2)?, comment })
    };
    let lists = answers.iter().filter_map(|answer| attribute(answer.body.get(4..)?, 3));
    Ok(lists.flat_map(attributes).filter_map(|(_, body)| element(body)).collect())
}

/// All or nothing.
fn transaction(socket: &mut Socket, mut requests: Vec<Request>) -> io::Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let end = |kind| {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        Request { kind, flags: 0, body: vec![0, 0, high, low] }
    };
    requests.insert(0, end(BATCH_BEGIN));
    requests.push(end(BATCH_END));
    let mut errors: Vec<io::Error> = socket.send(&requests)?.into_iter().filter_map(Result::err).collect();
    // A missing answer is a consequence of the error that has a number.
    errors.sort_by_key(|error| errno(error).is_none());
    errors.into_iter().next().map_or(Ok(()), Err)
}

fn request(kind: u16, flags: u16, attributes: Attributes) -> Request {
    let body = [vec![FAMILY_INET, 0, 0, 0], attributes.0].concat();
    Request { kind: SUBSYSTEM << 8 | kind, flags: NLM_F_ACK | flags, body }
}

fn named_table(table: &str) -> Attributes {
    Attributes::default().text(1, table)
}

fn delete_table(table: &str) -> Request {
    request(DELETE_TABLE, 0, named_table(table))
}

fn new_map(table: &str, map: &Map, id: u32) -> Request {
    let attributes = named_table(table)
        .text(2, map.name)
        .number(3, SET_MAP)
        .number(4, map.key.0)
        .number(5, map.key.1)
        .number(6, map.value.0)
        .number(7, map.value.1)
        .number(10, id);
    request(NEW_SET, NLM_F_CREATE, attributes)
}

fn new_chain(table: &str, chain: &Chain) -> Request {
    let mut attributes = named_table(table).text(3, chain.name);
    if let Some((kind, hook, priority)) = chain.base {
        let hook = Attributes::default().number(1, hook).bytes(2, &priority.to_be_bytes());
        attributes = attributes.nest(4, hook).text(7, kind);
    }
    request(NEW_CHAIN, NLM_F_CREATE, attributes)
}

fn new_rule(table: &str, chain: &str, rule: &[Expression]) -> Request {
    const APPEND: u16 = netlink_packet_core::NLM_F_APPEND;
    let expressions = rule.iter().fold(Attributes::default(), |list, expression| list.nest(1, encode(expression)));
    request(NEW_RULE, NLM_F_CREATE | APPEND, named_table(table).text(2, chain).nest(4, expressions))
}

fn element_requests(kind: u16, table: &str, elements: &[Element]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut maps: Vec<&str> = elements.iter().map(|element| element.map).collect();
    maps.sort_unstable();
    maps.dedup();
    for map in maps {
        let of_map: Vec<&Element> = elements.iter().filter(|element| element.map == map).collect();
        for chunk in of_map.chunks(ELEMENTS_MAX) {
            let list = chunk.iter().fold(Attributes::default(), |list, element| {
                let mut body = Attributes::default().nest(1, value(&element.key));
                if kind == NEW_ELEMENT {
                    body = body.nest(2, value(&element.value)).bytes(6, &comment(&element.comment));
                }
                list.nest(1, body)
            });
            let flags = if kind == NEW_ELEMENT { NLM_F_CREATE } else { 0 };
            requests.push(request(kind, flags, named_table(table).text(2, map).nest(3, list)));
        }
    }
    requests
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let verdict = Attributes::default().bytes(1, &code.to_be_bytes());
    let verdict = chain.into_iter().fold(verdict, |verdict, chain| verdict.text(2, chain));
    let data = Attributes::default().nest(2, verdict);
    Attributes::default().number(1, REGISTER_VERDICT).nest(2, data)
}

fn encode(expression: &Expression) -> Attributes {
    let new = Attributes::default;
    let (name, attributes) = match expression {
        Expression::Payload { base, offset, length, into } => {
            ("payload", new().number(1, *into).number(2, *base).number(3, *offset).number(4, *length))
        }
        Expression::Meta { key, into } => ("meta", new().number(1, *into).number(2, *key)),
        Expression::Connection { key, into } => ("ct", new().number(1, *into).number(2, *key)),
        // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR
        Expression::DestinationType { into } => ("fib", new().number(1, *into).number(2, 3).number(3, 2)),
        Expression::Mask { register, mask } => {
            let length = mask.len() as u32;
            let registers = new().number(1, *register).number(2, *register).number(3, length);
            ("bitwise", registers.nest(4, value(mask)).nest(5, value(&vec![0; mask.len()])))
        }
        Expression::Equal { register, value: wanted } => {
            ("cmp", new().number(1, *register).number(2, 0).nest(3, value(wanted)))
        }
        Expression::Differ { register, value: wanted } => {
            ("cmp", new().number(1, *register).number(2, 1).nest(3, value(wanted)))
        }
        Expression::Lookup { map, from, into } => ("lookup", new().text(1, map).number(2, *from).number(3, *into)),
        Expression::Dnat { family, address, port } => {
            ("nat", new().number(1, 1).number(2, *family).number(3, *address).number(5, *port))
        }
        Expression::Masquerade => ("masq", new()),
        Expression::Jump(chain) => ("immediate", verdict(VERDICT_JUMP, Some(chain))),
        Expression::Drop => ("immediate", verdict(VERDICT_DROP, None)),
    };
    Attributes::default().text(1, name).nest(2, attributes)
}

/// A comment as nft(8) stores it in what the kernel keeps for user space: kind 0, length, text, NUL.
fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(COMMENT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text.as_bytes()[..end];
    [&[0, text.len() as u8 + 1], text, &[0]].concat()
}

fn comment_of(stored: &[u8]) -> Option<String> {
    let (&[kind, length], rest) = stored.split_first_chunk()?;
    (kind == 0).then(|| text(rest.get(..usize::from(length)).unwrap_or_default()))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
