//! The counters of the interfaces in a pod's network, read inside of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use podd_cri::v1::{NetworkInterfaceUsage, NetworkUsage};
use podd_sys::namespace::{Kind, enter};

use super::some;

/// What went through one interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Counters,
    pub(crate) sent: Counters,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// The interfaces of each network but its loopback. One thread goes from one to the next: `/proc/thread-self/net`
/// follows the thread's namespace, and costs one file where netlink costs a socket, a dump and a parser for the same
/// numbers. A network that cannot be read is `None`.
pub(crate) fn read(networks: Vec<Option<OwnedFd>>) -> io::Result<Vec<Option<Vec<Interface>>>> {
    let walk = move || {
        let one = |network: Option<OwnedFd>| {
            enter(network?.as_fd(), Kind::Net).ok()?;
            Some(parse(&std::fs::read_to_string("/proc/thread-self/net/dev").ok()?))
        };
        networks.into_iter().map(one).collect()
    };
    // A thread of its own, since it ends in another namespace than it began in.
    let thread = std::thread::Builder::new().name("pod-networks".into()).spawn(walk)?;
    thread.join().map_err(|_| io::Error::other("reading the pods' interfaces panicked"))
}

/// `proc_pid_net_dev(5)`: two lines of head, then `name: ` and 16 columns.
fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [bytes, packets, errors, dropped, ..] = numbers[..] else { return None };
        let [sent_bytes, sent_packets, sent_errors, sent_dropped, ..] = *numbers.get(8..)? else { return None };
        Some(Interface {
            name: name.trim().to_owned(),
            received: Counters { bytes, packets, errors, dropped },
            sent: Counters { bytes: sent_bytes, packets: sent_packets, errors: sent_errors, dropped: sent_dropped },
        })
    };
    text.lines().skip(2).filter_map(line).filter(|interface| interface.name != "lo").collect()
}

/// CRI's form: the pod's main interface, and those beside it.
pub(super) fn to_cri(mut interfaces: Vec<Interface>, timestamp: i64) -> NetworkUsage {
    let main = interfaces.iter().position(|interface| interface.name == "eth0").unwrap_or(0);
    let main = (!interfaces.is_empty()).then(|| interfaces.remove(main));
    let usage = |interface: Interface| NetworkInterfaceUsage {
        name: interface.name,
        rx_bytes: some(interface.received.bytes),
        rx_errors: some(interface.received.errors),
        tx_bytes: some(interface.sent.bytes),
        tx_errors: some(interface.sent.errors),
    };
    NetworkUsage {
        timestamp,
        default_interface: main.map(usage),
        interfaces: interfaces.into_iter().map(usage).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     840      10    0    0    0     0          0         0      840      10    0    0    0     0       0          0
  net1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
  eth0: 11 12 13 14 0 0 0 0 15 16 17 18 0 0 0 0
";

    #[test]
    fn each_column_is_what_its_head_says_and_loopback_is_left_out() {
        let found = parse(DEV);
        assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["net1", "eth0"]);
        assert_eq!(found[0].received, Counters { bytes: 1, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(found[0].sent, Counters { bytes: 5, packets: 6, errors: 7, dropped: 8 });
    }

    #[test]
    fn the_main_interface_comes_first_wherever_it_stands() {
        let usage = to_cri(parse(DEV), 1);
        let main = usage.default_interface.expect("a main one");
        assert_eq!((main.name.as_str(), main.rx_bytes, main.tx_errors), ("eth0", some(11), some(17)));
        assert_eq!(usage.interfaces.len(), 1);
        assert_eq!(to_cri(Vec::new(), 1).default_interface, None);
    }
}
