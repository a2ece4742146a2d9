//! The addresses of a subnet, handed out in turn. Pure: what is in use survives in the [`ledger`](crate::ledger).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The pods' addresses of one IPv4 subnet: all but the network's, the gateway's (the first) and the broadcast's.
///
/// An address that was given back is handed out again when the turn comes round to it, not at once: peers may still have it
/// in their caches, and its old link may still be there.
#[derive(Debug)]
pub(crate) struct Pool {
    first: u32,
    last: u32,
    next: u32,
    used: BTreeSet<u32>,
}

impl Pool {
    pub(crate) fn new(subnet: Ipv4Net) -> Self {
        let first = subnet.network().to_bits() + 2;
        Self { first, last: subnet.broadcast().to_bits() - 1, next: first, used: BTreeSet::new() }
    }

    /// How many pods fit.
    pub(crate) fn size(&self) -> u32 {
        self.last - self.first + 1
    }

    /// Takes the next free address; none when all are taken.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let free = |range: std::ops::RangeInclusive<u32>, used: &BTreeSet<u32>| {
            range.into_iter().find(|bits| !used.contains(bits))
        };
        let bits = free(self.next..=self.last, &self.used).or_else(|| free(self.first..=self.next - 1, &self.used))?;
        self.used.insert(bits);
        self.turn_to_after(bits);
        Some(Ipv4Addr::from_bits(bits))
    }

    /// Marks an address as taken, and the turn as having passed it. False when it is taken already or none of these.
    pub(crate) fn claim(&mut self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        let ours = (self.first..=self.last).contains(&bits);
        if ours {
            self.turn_to_after(bits);
        }
        ours && self.used.insert(bits)
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address.to_bits());
    }

    /// Lets the turn go on after this address, taken or not.
    pub(crate) fn turn_to_after_address(&mut self, address: Ipv4Addr) {
        if (self.first..=self.last).contains(&address.to_bits()) {
            self.turn_to_after(address.to_bits());
        }
    }

    fn turn_to_after(&mut self, bits: u32) {
        self.next = if bits == self.last { self.first } else { bits + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().unwrap())
    }

    #[test]
    fn addresses_go_round_and_the_special_ones_are_never_handed_out() {
        let mut pool = pool("10.0.0.0/29");
        assert_eq!(pool.size(), 5);
        let taken: Vec<String> = std::iter::from_fn(|| pool.take()).map(|ip| ip.to_string()).collect();
        assert_eq!(taken, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        pool.release(Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(pool.take(), Some(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn a_freed_address_comes_again_when_its_turn_does() {
        let mut pool = pool("10.0.0.0/29");
        for expected in [2, 3, 4, 5, 6, 2, 3] {
            let ip = pool.take().unwrap();
            assert_eq!(ip, Ipv4Addr::new(10, 0, 0, expected));
            pool.release(ip);
        }
    }

    #[test]
    fn a_claim_is_good_once_and_only_within_the_subnet() {
        let mut pool = pool("10.0.0.0/29");
        assert!(pool.claim(Ipv4Addr::new(10, 0, 0, 2)));
        assert!(!pool.claim(Ipv4Addr::new(10, 0, 0, 2)));
        for other in [0, 1, 7, 8] {
            assert!(!pool.claim(Ipv4Addr::new(10, 0, 0, other)), "{other}");
        }
        assert_eq!(pool.take(), Some(Ipv4Addr::new(10, 0, 0, 3)));
    }
}
