//! What the server knows: addresses by name and namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The version of the file. One of another version is not read.
const VERSION: u32 = 1;

/// The names of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    version: u32,
    /// The domain of the cluster, `cluster.local`.
    pub domain: String,
    /// Every name. A name may be there once in a namespace.
    pub entries: Vec<Entry>,
}

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The namespace.
    pub namespace: String,
    /// The name within it: of a pod, or `hostname.subdomain`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Table {
    /// A table of this domain.
    #[must_use]
    pub fn new(domain: &str, entries: Vec<Entry>) -> Table {
        Table { version: VERSION, domain: domain.to_lowercase(), entries }
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another version.
    pub fn read(path: &Path) -> io::Result<Table> {
        let table: Table = serde_json::from_slice(&fs::read(path)?)?;
        if table.version == VERSION {
            return Ok(table);
        }
        Err(io::Error::other(format!("a table of names of version {}, this podd knows {VERSION}", table.version)))
    }

    /// Replaces the file at `path`: a reader sees the old table or the new one. Not synced, for the agent writes it anew
    /// when it starts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(&fresh, path)
    }
}

/// A table, arranged for questions.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) domain: Vec<String>,
    names: BTreeMap<(String, String), Vec<IpAddr>>,
    /// Whose an address is: namespace and name.
    owners: BTreeMap<IpAddr, (String, String)>,
}

impl Index {
    pub(crate) fn new(table: Table) -> Index {
        let mut index = Index { domain: table.domain.split('.').map(str::to_owned).collect(), ..Index::default() };
        for entry in table.entries {
            for address in &entry.addresses {
                index.owners.entry(*address).or_insert_with(|| (entry.namespace.clone(), entry.name.clone()));
            }
            index.names.insert((entry.namespace, entry.name), entry.addresses);
        }
        index
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<&[IpAddr]> {
        self.names.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    /// Whether there are names below this one.
    pub(crate) fn has_below(&self, namespace: &str, name: &str) -> bool {
        let suffix = format!(".{name}");
        self.names.keys().any(|(of, known)| of == namespace && known.ends_with(&suffix))
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.names.range((namespace.to_owned(), String::new())..).next().is_some_and(|((of, _), _)| of == namespace)
    }

    /// The namespace and the name of a pod with this address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<(&str, &str)> {
        self.owners.get(&address).map(|(namespace, name)| (namespace.as_str(), name.as_str()))
    }
}
