//! The nft tables of a network namespace, read in words of the harness' own: a mistake of the code under test is not made
//! here as well, and Debian's `nft` is not needed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use rustix::net::{RecvFlags, SendFlags, recv, send};

/// `NETLINK_NETFILTER`.
const NETFILTER: u32 = 12;
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_GETTABLE`.
const GET_TABLE: u16 = 10 << 8 | 1;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NFTA_TABLE_NAME`.
const NAME: u16 = 1;
/// The netlink header, and nfnetlink's after it.
const HEADERS: usize = 20;

/// The names of all tables in the network namespace of a process.
pub(crate) fn tables(pid: u32) -> io::Result<Vec<String>> {
    let netns = File::open(format!("/proc/{pid}/ns/net"))?;
    let socket = podd_sys::namespace::netlink_socket(NETFILTER, Some(netns.as_fd()))?;
    let length = u32::try_from(HEADERS).expect("small");
    let mut request = length.to_ne_bytes().to_vec();
    request.extend([GET_TABLE.to_ne_bytes(), DUMP.to_ne_bytes()].concat());
    // Sequence, port; every family, version 0, no resource.
    request.extend([0; HEADERS - 8]);
    send(&socket, &request, SendFlags::empty())?;
    let (mut names, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut left = &buffer[..length];
        while let Some((kind, body)) = next(&mut left, 4) {
            match kind {
                DONE => return Ok(names),
                ERROR => return Err(io::Error::other("the kernel refuses to list the tables")),
                // Behind length and kind lies the rest of the headers.
                _ => names.extend(name(body.get(HEADERS - 6..).unwrap_or_default())),
            }
        }
    }
}

fn name(mut attributes: &[u8]) -> Option<String> {
    while let Some((kind, body)) = next(&mut attributes, 2) {
        if kind == NAME {
            let text = body.strip_suffix(&[0]).unwrap_or(body);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    None
}

/// Takes the first of a row of messages or attributes: a length of this many bytes, a kind of two, and the body.
fn next<'a>(row: &mut &'a [u8], width: usize) -> Option<(u16, &'a [u8])> {
    let length = match row.get(..width)? {
        [a, b] => usize::from(u16::from_ne_bytes([*a, *b])),
        [a, b, c, d] => usize::try_from(u32::from_ne_bytes([*a, *b, *c, *d])).ok()?,
        _ => return None,
    };
    let kind = u16::from_ne_bytes(row.get(width..width + 2)?.try_into().ok()?);
    let body = row.get(width + 2..length)?;
    *row = row.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}
