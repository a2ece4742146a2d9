//! Who has which address and port, and what else must be known to undo: a file that is only appended to.
//!
//! A lease is written before its first effect and struck out after the last, so whatever moment the agent is killed at, no
//! two pods get one address. Nothing is synced: a power loss that could take the file's end takes all pods with it. A line
//! costs a few microseconds where rewriting a file, or one file per pod, costs a hundred; at [`Ledger::open`] and whenever
//! most of it is history the file is written anew and renamed over.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::ports::{PortHolder, PortMapping};

/// The format of the file. A newer one is refused.
const VERSION: u32 = 1;
const FILE: &str = "leases";
/// The file is written anew when it has this many lines more than it needs.
const HISTORY_MAX: usize = 4096;

/// What a pod has of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) sandbox: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<PortMapping>,
}

/// A kernel parameter that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    /// The value that was found.
    pub(crate) old: String,
    /// The value that was set.
    pub(crate) new: String,
    /// The boot it was in.
    pub(crate) boot: String,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Version(u32),
    Lease(Lease),
    Free(String),
    /// The address that was handed out last.
    Turn(Vec<IpAddr>),
    Changed(Sysctl),
    /// All that was changed has been changed back.
    Restored(()),
}

/// The leases of an instance.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    /// How much of the file is whole lines.
    length: u64,
    lines: usize,
    subnet: Ipv4Net,
    pool: Pool,
    leases: BTreeMap<String, Lease>,
    turn: Vec<IpAddr>,
    changed: Vec<Sysctl>,
}

impl Ledger {
    /// Reads the leases that are in `directory`, which is made if it is not there.
    pub(crate) fn open(directory: &Path, subnets: &[IpNet]) -> Result<Self> {
        let Some(IpNet::V4(subnet)) = subnets.first().copied() else {
            return Err(Error::Invalid("a network needs an IPv4 subnet".into()));
        };
        let path = directory.join(FILE);
        let failed = |what: &'static str| {
            let path = path.clone();
            move |source| Error::Ledger { what, path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make the directory of"))?;
        let file = open(&path).map_err(failed("open"))?;
        let mut ledger = Self {
            file,
            length: 0,
            lines: 0,
            subnet,
            pool: Pool::new(subnet),
            leases: BTreeMap::new(),
            turn: Vec::new(),
            changed: Vec::new(),
            path: path.clone(),
        };
        let text = fs::read(&path).map_err(failed("read"))?;
        for line in lines(&text).map_err(failed("read"))? {
            ledger.replay(line).map_err(failed("read"))?;
        }
        ledger.rewrite()?;
        Ok(ledger)
    }

    fn replay(&mut self, line: Line) -> io::Result<()> {
        match line {
            Line::Version(VERSION) => {}
            Line::Version(other) => {
                return Err(io::Error::other(format!("it is of version {other}, this podd knows {VERSION}")));
            }
            Line::Lease(lease) => {
                // A lease of another subnet (the configuration changed) stands too, only the pool does not care.
                for address in v4(&lease.addresses) {
                    self.pool.claim(address);
                }
                self.turn.clone_from(&lease.addresses);
                self.leases.insert(lease.sandbox.clone(), lease);
            }
            Line::Free(sandbox) => self.forget(&sandbox),
            Line::Turn(addresses) => {
                v4(&addresses).for_each(|address| self.pool.turn_to_after_address(address));
                self.turn = addresses;
            }
            Line::Changed(sysctl) => self.changed.push(sysctl),
            Line::Restored(()) => self.changed.clear(),
        }
        Ok(())
    }

    pub(crate) fn lease(&self, sandbox: &str) -> Option<&Lease> {
        self.leases.get(sandbox)
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// What was changed in this boot or earlier ones and not changed back.
    pub(crate) fn changed(&self) -> &[Sysctl] {
        &self.changed
    }

    /// Who holds which host port.
    pub(crate) fn holders(&self) -> Vec<PortHolder> {
        let of = |lease: &Lease, port: &PortMapping| PortHolder {
            protocol: port.protocol,
            host_ip: port.host_ip(),
            port: port.host_port,
            holder: format!("sandbox {}", lease.sandbox),
        };
        self.leases.values().flat_map(|lease| lease.ports.iter().map(move |port| of(lease, port))).collect()
    }

    /// Leases the next address to a sandbox; the one it has, if it has one already.
    pub(crate) fn take(&mut self, sandbox: &str, ports: &[PortMapping]) -> Result<Lease> {
        if let Some(lease) = self.leases.get(sandbox) {
            return Ok(lease.clone());
        }
        let exhausted = Error::NoAddress { subnet: self.subnet.into(), limit: self.pool.size() };
        let address = self.pool.take().ok_or(exhausted)?;
        let lease = Lease { sandbox: sandbox.to_owned(), addresses: vec![address.into()], ports: ports.to_vec() };
        if let Err(error) = self.append(&Line::Lease(lease.clone())) {
            self.pool.release(address);
            return Err(error);
        }
        self.turn.clone_from(&lease.addresses);
        self.leases.insert(sandbox.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Enters a lease that is known from elsewhere, for a file that was lost. False when its address is another's.
    pub(crate) fn adopt(&mut self, lease: Lease) -> Result<bool> {
        let held = |address: &IpAddr| self.leases.values().any(|other| other.addresses.contains(address));
        if self.leases.contains_key(&lease.sandbox) || lease.addresses.iter().any(held) {
            return Ok(false);
        }
        self.append(&Line::Lease(lease.clone()))?;
        for address in v4(&lease.addresses) {
            self.pool.claim(address);
        }
        self.leases.insert(lease.sandbox.clone(), lease);
        Ok(true)
    }

    /// Gives back what a sandbox has; fine if that is nothing.
    pub(crate) fn free(&mut self, sandbox: &str) -> Result<()> {
        if self.leases.contains_key(sandbox) {
            self.append(&Line::Free(sandbox.to_owned()))?;
            self.forget(sandbox);
            if self.lines > 2 * self.leases.len() + HISTORY_MAX {
                self.rewrite()?;
            }
        }
        Ok(())
    }

    /// Notes a kernel parameter that is about to be changed. The first note of a boot is the one that counts.
    pub(crate) fn note_change(&mut self, sysctl: Sysctl) -> Result<()> {
        if self.changed.iter().any(|noted| noted.name == sysctl.name && noted.boot == sysctl.boot) {
            return Ok(());
        }
        self.append(&Line::Changed(sysctl.clone()))?;
        self.changed.push(sysctl);
        Ok(())
    }

    /// Notes that all changes were changed back.
    pub(crate) fn note_restored(&mut self) -> Result<()> {
        if !self.changed.is_empty() {
            self.append(&Line::Restored(()))?;
            self.changed.clear();
        }
        Ok(())
    }

    fn forget(&mut self, sandbox: &str) {
        if let Some(lease) = self.leases.remove(sandbox) {
            v4(&lease.addresses).for_each(|address| self.pool.release(address));
        }
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let bytes = encode(line);
        if let Err(source) = self.file.write_all(&bytes) {
            // A line that went in part (a full disk) must not be continued by the next.
            let cut = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            if let Err(error) = cut {
                tracing::error!(path = %self.path.display(), %error, "cut a torn line");
            }
            return Err(Error::Ledger { what: "write", path: self.path.clone(), source });
        }
        self.length += bytes.len() as u64;
        self.lines += 1;
        Ok(())
    }

    /// Writes the file anew with only what counts.
    fn rewrite(&mut self) -> Result<()> {
        let mut lines = vec![Line::Version(VERSION)];
        lines.extend(self.changed.iter().cloned().map(Line::Changed));
        lines.extend(self.leases.values().cloned().map(Line::Lease));
        if !self.turn.is_empty() {
            lines.push(Line::Turn(self.turn.clone()));
        }
        let bytes: Vec<u8> = lines.iter().flat_map(encode).collect();
        let temporary = self.path.with_extension("new");
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &self.path))
            .and_then(|()| open(&self.path));
        let mut file = written.map_err(|source| Error::Ledger { what: "write", path: self.path.clone(), source })?;
        let end = file.seek(SeekFrom::End(0));
        self.length = end.map_err(|source| Error::Ledger { what: "write", path: self.path.clone(), source })?;
        self.file = file;
        self.lines = lines.len();
        Ok(())
    }
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn encode(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("a line is strings and numbers only");
    bytes.push(b'\n');
    bytes
}

/// The whole lines of the file. What follows the last of them was torn by a crash and never took effect; damage in the
/// midst is an error, since a lease may have been there.
fn lines(text: &[u8]) -> io::Result<Vec<Line>> {
    let mut found = Vec::new();
    let mut torn = None;
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(_) if torn.is_some() => break,
            Ok(line) => {
                found.push(line);
                continue;
            }
            Err(_) if line.is_empty() => continue,
            Err(error) if torn.is_none() => torn = Some((number + 1, error)),
            Err(_) => continue,
        }
    }
    // serde_json cannot tell a newer version's lines from damage, so the version, which comes first, is looked at here.
    let newer = matches!(found.first(), Some(Line::Version(version)) if *version > VERSION);
    match torn {
        Some((number, error)) if !newer && !is_tail(text, number) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("line {number} is damaged: {error}")))
        }
        _ => Ok(found),
    }
}

/// Whether no whole line comes after the one of this number.
fn is_tail(text: &[u8], number: usize) -> bool {
    text.split(|&byte| byte == b'\n').skip(number).all(|line| serde_json::from_slice::<Line>(line).is_err())
}

#[cfg(test)]
mod tests;
