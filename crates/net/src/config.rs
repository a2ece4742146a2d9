//! How the network of an instance is set up, and the names that follow from it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use crate::error::{Error, Result};

/// The longest name of a network interface (IFNAMSIZ without its terminator).
const INTERFACE_MAX: usize = 15;
/// The instance whose table has the plain name.
const PLAIN_INSTANCE: &str = "podd";
/// The longest alias of an interface and comment of a table.
const OWNER_MAX: usize = 200;

/// The network of an instance. Two instances of a machine differ in all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The instance: the nft table is named after it.
    pub instance: String,
    /// The bridge that the pods hang on.
    pub bridge: String,
    /// Where the pods' addresses come from, one of each family at most (today IPv4 only). The first address of each is
    /// the bridge's.
    pub subnets: Vec<IpNet>,
    /// MTU of bridge and pods; that of the uplink (the interface of the default route) if none.
    pub mtu: Option<u32>,
    /// Where the leases are kept.
    pub state_dir: PathBuf,
    /// Which boot this is: what was changed in an earlier one is not there to be changed back.
    pub boot_id: String,
}

impl Config {
    /// The usual setup of an instance: bridge `<instance>0`, subnet 10.85.0.0/16.
    pub fn new(instance: &str, state_dir: &Path, boot_id: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            bridge: format!("{instance}0"),
            subnets: vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 85, 0, 0), 16))],
            mtu: None,
            state_dir: state_dir.to_owned(),
            boot_id: boot_id.to_owned(),
        }
    }

    /// Refuses what cannot be set up.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::Invalid(text));
        let plain = |b: u8| b.is_ascii_graphic() && b != b'/';
        if self.bridge.is_empty() || self.bridge.len() > INTERFACE_MAX || !self.bridge.bytes().all(plain) {
            return invalid(format!(
                "network.bridge {:?} is not the name of an interface (1 to {INTERFACE_MAX} letters)",
                self.bridge
            ));
        }
        let [subnet] = self.subnets.as_slice() else {
            return invalid(format!("network.subnet must be one IPv4 subnet, not {}", self.subnets.len()));
        };
        let IpNet::V4(subnet) = subnet else {
            return invalid(format!("network.subnet {subnet} is not possible: pods have IPv4 addresses only"));
        };
        if subnet.addr() != subnet.network() {
            return invalid(format!("network.subnet {subnet} has host bits set; {} would be right", subnet.trunc()));
        }
        if !(8..=29).contains(&subnet.prefix_len()) {
            return invalid(format!("network.subnet {subnet} must be between /8 and /29"));
        }
        if subnet.addr().is_loopback() || subnet.addr().is_multicast() || subnet.addr().is_unspecified() {
            return invalid(format!("network.subnet {subnet} is not for pods; a private one like 10.85.0.0/16 is"));
        }
        if self.mtu.is_some_and(|mtu| !(576..=65535).contains(&mtu)) {
            return invalid(format!("network.mtu {} must be between 576 and 65535", self.mtu.unwrap_or_default()));
        }
        Ok(())
    }

    /// The name of the instance's nft table, in family inet.
    pub fn table(&self) -> String {
        if self.instance == PLAIN_INSTANCE {
            PLAIN_INSTANCE.to_owned()
        } else {
            format!("{PLAIN_INSTANCE}-{}", self.instance)
        }
    }

    /// What bridge and table say about whom they belong to.
    pub(crate) fn owner(&self) -> String {
        let directory = self.state_dir.display().to_string();
        let tail = directory.char_indices().map(|(at, _)| at).find(|at| directory.len() - at <= OWNER_MAX);
        format!("podd {} {}", self.instance, &directory[tail.unwrap_or_default()..])
    }

    /// The addresses of the bridge, which are the pods' gateways, each with its prefix length.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        let first = |subnet: &IpNet| Some((subnet.hosts().next()?, subnet.prefix_len()));
        self.subnets.iter().filter_map(first).filter_map(|(ip, prefix)| IpNet::new(ip, prefix).ok()).collect()
    }
}

/// Whether a table may be one of podd's, of this instance or another.
pub(crate) fn is_table_of_podd(name: &str) -> bool {
    name == PLAIN_INSTANCE || name.strip_prefix(PLAIN_INSTANCE).is_some_and(|rest| rest.starts_with('-'))
}

/// The host's end of the link to the pod that has this address.
///
/// Named after the address, not the sandbox: so the kernel itself refuses a second interface for an address while one,
/// of a pod whose namespace somebody still holds, is there.
pub fn host_interface(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => format!("pod{:08x}", ip.to_bits()),
        // The subnet of an instance is far larger than its pods: its low bits tell them apart.
        IpAddr::V6(ip) => format!("pod6{:011x}", ip.to_bits() & 0xfff_ffff_ffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("podd", Path::new("/var/lib/podd/net"), "boot")
    }

    #[test]
    fn names_follow_from_the_instance() {
        assert_eq!((config().bridge.as_str(), config().table().as_str()), ("podd0", "podd"));
        let two = Config::new("two", Path::new("/x"), "boot");
        assert_eq!((two.bridge.as_str(), two.table().as_str()), ("two0", "podd-two"));
        assert!(is_table_of_podd("podd") && is_table_of_podd("podd-two") && !is_table_of_podd("poddle"));
        assert_eq!(config().gateways(), ["10.85.0.1/16".parse::<IpNet>().unwrap()]);
        assert_eq!(config().owner(), "podd podd /var/lib/podd/net");
        assert_eq!(host_interface("10.85.0.2".parse().unwrap()), "pod0a550002");
        assert!(host_interface("fd00::ffff:ffff:ffff:ffff".parse().unwrap()).len() <= INTERFACE_MAX);
        let long = Config::new("two", Path::new(&format!("/{}", "ü".repeat(300))), "boot");
        assert!(long.owner().len() < 255);
    }

    #[test]
    fn what_cannot_be_set_up_is_refused_with_what_would_be_right() {
        assert!(config().check().is_ok());
        let subnet = |text: &str| Config { subnets: vec![text.parse().unwrap()], ..config() };
        let table = [
            (subnet("10.85.1.0/16"), "10.85.0.0/16 would be right"),
            (subnet("10.85.0.0/30"), "/29"),
            (subnet("fd00::/64"), "IPv4 addresses only"),
            (subnet("127.0.0.0/8"), "not for pods"),
            (Config { subnets: vec![], ..config() }, "one IPv4 subnet"),
            (Config { bridge: "a-name-too-long-".into(), ..config() }, "network.bridge"),
            (Config { bridge: "a b".into(), ..config() }, "network.bridge"),
            (Config { mtu: Some(10), ..config() }, "network.mtu 10"),
        ];
        for (config, text) in table {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
