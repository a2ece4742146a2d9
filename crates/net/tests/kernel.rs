//! The network against the real kernel. Each test is a machine of its own: a network namespace with an uplink to another
//! one, "outside". Needs root.
#![allow(clippy::unwrap_used)] // Tests; clippy allows it in functions marked as such only.

mod world;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use podd_net::{Attached, Config, Error, Network, PortMapping, Protocol, host_interface};
use world::{HOST, OUTSIDE, Place, Pod, World, ip, ip_batch, tcp, udp};

fn port(protocol: Protocol, host_ip: Option<&str>, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol, host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container_port }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn attached(pod: &Pod, ports: &[PortMapping]) -> Attached {
    Attached { sandbox: pod.id.clone(), addresses: vec![pod.address], ports: ports.to_vec() }
}

#[test]
fn pods_reach_each_other_and_the_outside_behind_the_hosts_address() {
    World::run(|world| {
        let network = world.network();
        let (a, b) = (world.pod(&network, "a", &[]), world.pod(&network, "b", &[]));
        assert_eq!((a.address.to_string(), b.address.to_string()), ("10.85.0.2".into(), "10.85.0.3".into()));
        let seen = tcp(&b.place(), SocketAddr::new(b.address, 80), &a.place(), SocketAddr::new(b.address, 80));
        assert_eq!(seen.unwrap().ip(), a.address, "pod to pod keeps the source");
        let seen = tcp(&world.outside(), at(OUTSIDE, 80), &a.place(), at(OUTSIDE, 80));
        assert_eq!(seen.unwrap().ip(), HOST.parse::<IpAddr>().unwrap(), "pod to outside is masqueraded");
        let seen = tcp(&a.place(), SocketAddr::new(a.address, 80), &world.host(), SocketAddr::new(a.address, 80));
        assert_eq!(seen.unwrap().ip().to_string(), "10.85.0.1", "the host comes from the gateway's address");
        let seen = udp(&world.outside(), at(OUTSIDE, 53), &a.place(), at(OUTSIDE, 53));
        assert_eq!(seen.unwrap().ip(), HOST.parse::<IpAddr>().unwrap());
    });
}

#[test]
fn links_have_the_uplinks_mtu_and_a_hardware_address_that_follows_from_the_ip() {
    World::run(|world| {
        let network = world.network();
        let pod = world.pod(&network, "a", &[]);
        let eth0 = pod.place().run(|| ip("-o link show eth0"));
        assert!(eth0.contains("mtu 1400") && eth0.contains("0a:58:0a:55:00:02"), "{eth0}");
        let host = ip(&format!("-d -o link show {}", host_interface(pod.address)));
        let expected = ["mtu 1400", "master podd0", "hairpin on", "state UP", "alias a"];
        expected.iter().for_each(|part| assert!(host.contains(part), "{part}: {host}"));
        let bridge = ip("-d -o link show podd0");
        let expected = ["mtu 1400", "forward_delay 0", "stp_state 0", "0a:58:0a:55:00:01", "alias podd podd"];
        expected.iter().for_each(|part| assert!(bridge.contains(part), "{part}: {bridge}"));
        assert!(!bridge.contains("NO-CARRIER"), "{bridge}");
        let inside = pod.place().run(|| ip("addr show"));
        assert!(inside.contains("10.85.0.2/16 brd 10.85.255.255") && inside.contains("127.0.0.1/8"), "{inside}");
        assert!(!inside.contains("inet6 fe80"), "{inside}");
    });
}

#[test]
fn a_host_port_is_reached_from_everywhere() {
    for netfilter_of_bridges in ["0", "1"] {
        World::run(|world| {
            let file = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            std::fs::write(file, netfilter_of_bridges).unwrap();
            let network = world.network();
            let ports = [port(Protocol::Tcp, None, 8080, 80), port(Protocol::Udp, Some("0.0.0.0"), 8053, 53)];
            let pod = world.pod(&network, "a", &ports);
            let other = world.pod(&network, "b", &[]);
            let (web, dns) = (SocketAddr::new(pod.address, 80), SocketAddr::new(pod.address, 53));
            let outside: IpAddr = OUTSIDE.parse().unwrap();
            let tcp_seen = |from: &Place, to: &str| tcp(&pod.place(), web, from, at(to, 8080)).unwrap().ip();
            let udp_seen = |from: &Place, to: &str| udp(&pod.place(), dns, from, at(to, 8053)).unwrap().ip();
            assert_eq!(tcp_seen(&world.outside(), HOST), outside, "the source is kept");
            assert_eq!(udp_seen(&world.outside(), HOST), outside);
            for place in [world.host(), other.place(), pod.place()] {
                for target in [HOST, "10.85.0.1"] {
                    tcp_seen(&place, target);
                    udp_seen(&place, target);
                }
            }
            assert_eq!(tcp_seen(&world.host(), "127.0.0.1").to_string(), "10.85.0.1");
            assert_eq!(udp_seen(&world.host(), "127.0.0.1").to_string(), "10.85.0.1");
            network.detach("a").unwrap();
            assert!(tcp(&pod.place(), web, &world.outside(), at(HOST, 8080)).is_err());
        });
    }
}

#[test]
fn a_port_of_another_machine_is_not_ours() {
    World::run(|world| {
        let network = world.network();
        let pod = world.pod(&network, "a", &[port(Protocol::Tcp, None, 80, 80)]);
        let seen = tcp(&world.outside(), at(OUTSIDE, 80), &pod.place(), at(OUTSIDE, 80));
        assert_eq!(seen.unwrap().ip().to_string(), HOST);
        let pod = world.pod(&network, "b", &[port(Protocol::Tcp, None, 81, 80)]);
        let seen = tcp(&world.outside(), at(OUTSIDE, 81), &world.host(), at(OUTSIDE, 81));
        assert_eq!(seen.unwrap().ip().to_string(), HOST, "{}", pod.address);
    });
}

#[test]
fn a_host_ip_restricts_a_host_port() {
    World::run(|world| {
        let network = world.network();
        let ports = [port(Protocol::Tcp, Some("127.0.0.1"), 8080, 80), port(Protocol::Tcp, Some(HOST), 8081, 80)];
        let pod = world.pod(&network, "a", &ports);
        let web = SocketAddr::new(pod.address, 80);
        let reached = |from: &Place, to| tcp(&pod.place(), web, from, to).is_ok();
        assert!(reached(&world.host(), at("127.0.0.1", 8080)));
        assert!(!reached(&world.host(), at(HOST, 8080)));
        assert!(!reached(&world.outside(), at(HOST, 8080)));
        assert!(reached(&world.outside(), at(HOST, 8081)));
        assert!(!reached(&world.host(), at("127.0.0.1", 8081)));
        // Another pod may have the same port elsewhere, and none may have it everywhere.
        let elsewhere = world.pod(&network, "b", &[port(Protocol::Tcp, Some("127.0.0.2"), 8080, 80)]);
        let seen =
            tcp(&elsewhere.place(), SocketAddr::new(elsewhere.address, 80), &world.host(), at("127.0.0.2", 8080));
        assert!(seen.is_ok());
        let error = network.attach("c", world.netns().as_fd(), &[port(Protocol::Tcp, None, 8080, 80)]).unwrap_err();
        assert!(error.to_string().starts_with("host port 8080/tcp is taken by sandbox "), "{error}");
        assert_eq!(network.port_holders().len(), 3);
    });
}

#[test]
fn a_port_that_the_host_listens_on_is_refused() {
    World::run(|world| {
        let network = world.network();
        let bound = |address: &str| world.host().run(|| std::net::TcpListener::bind(address).unwrap());
        let datagram = world.host().run(|| std::net::UdpSocket::bind("127.0.0.1:53").unwrap());
        let (everywhere, one, six) = (bound("0.0.0.0:8080"), bound(&format!("{HOST}:8081")), bound("[::]:8082"));
        let netns = world.netns();
        let attach = |protocol, ip, number| network.attach("a", netns.as_fd(), &[port(protocol, ip, number, 80)]);
        let table = [
            (Protocol::Tcp, None, 8080, "host port 8080/tcp is taken by a socket of the host that listens"),
            (
                Protocol::Tcp,
                Some("127.0.0.1"),
                8080,
                "host port 8080/tcp on 127.0.0.1 is taken by a socket of the host",
            ),
            (Protocol::Tcp, None, 8081, "host port 8081/tcp is taken by a socket of the host that listens on 198.51"),
            (Protocol::Tcp, None, 8082, "host port 8082/tcp is taken by a socket of the host that listens"),
            (Protocol::Udp, None, 53, "host port 53/udp is taken by a socket of the host that listens on 127.0.0.1"),
        ];
        for (protocol, ip, number, text) in table {
            let error = attach(protocol, ip, number).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        attach(Protocol::Tcp, Some("127.0.0.1"), 8081).unwrap();
        network.detach("a").unwrap();
        attach(Protocol::Udp, None, 8080).unwrap();
        network.detach("a").unwrap();
        drop((everywhere, one, six, datagram));
        attach(Protocol::Tcp, None, 8080).unwrap();
    });
}

#[test]
fn a_client_that_keeps_sending_reaches_the_pod_of_the_moment() {
    World::run(|world| {
        let network = world.network();
        let first = world.pod(&network, "first", &[]);
        let client = world.outside().run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.connect(at(HOST, 53)).unwrap();
        let answered = |pod: &Pod, patience| {
            let server = pod.place().run(|| UdpSocket::bind((pod.address, 53)).unwrap());
            server.set_read_timeout(Some(Duration::from_millis(patience))).unwrap();
            let _refused_before = client.take_error();
            let mut word = [0; 4];
            let _refused = client.send(b"ping");
            server.recv_from(&mut word).is_ok()
        };
        let ports = [port(Protocol::Udp, None, 53, 53)];
        assert!(!answered(&first, 300), "there is no host port yet");
        network.detach("first").unwrap();
        let second = world.pod(&network, "second", &ports);
        assert!(answered(&second, 3000), "the connection of before is forgotten");
        network.detach("second").unwrap();
        let third = world.pod(&network, "third", &ports);
        assert!(answered(&third, 3000), "and so is that to the pod that is gone");
    });
}

#[test]
fn strict_reverse_path_filters_are_no_hindrance() {
    World::run(|world| {
        for place in ["all", "default", "up0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{place}/rp_filter"), "1").unwrap();
        }
        let network = world.network();
        let pod = world.pod(&network, "a", &[port(Protocol::Tcp, None, 8080, 80)]);
        let web = SocketAddr::new(pod.address, 80);
        for (place, target) in
            [(world.outside(), HOST), (world.host(), HOST), (world.host(), "127.0.0.1"), (pod.place(), HOST)]
        {
            tcp(&pod.place(), web, &place, at(target, 8080)).unwrap();
        }
        assert!(tcp(&world.outside(), at(OUTSIDE, 81), &pod.place(), at(OUTSIDE, 81)).is_ok());
    });
}

#[test]
fn the_hosts_loopback_stays_closed_to_pods() {
    World::run(|world| {
        let network = world.network();
        let pod = world.pod(&network, "a", &[port(Protocol::Tcp, None, 8080, 80)]);
        pod.place().run(|| {
            // What a hostile pod with NET_ADMIN does.
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            ip("addr del 127.0.0.1/8 dev lo");
            ip("route add 127.0.0.0/8 via 10.85.0.1 dev eth0");
        });
        assert!(tcp(&world.host(), at("127.0.0.1", 9000), &pod.place(), at("127.0.0.1", 9000)).is_err());
    });
}

#[test]
fn what_somebody_has_flushed_comes_back() {
    World::run(|world| {
        let ports = [port(Protocol::Tcp, None, 8080, 80)];
        let pod = world.pod(&world.network(), "a", &ports);
        let web = SocketAddr::new(pod.address, 80);
        let reached = || tcp(&pod.place(), web, &world.outside(), at(HOST, 8080)).is_ok();
        assert!(reached());
        world.flush_table("podd");
        assert!(!reached());
        ip("link del podd0");
        let network = world.network();
        network.restore(&[attached(&pod, &ports)]).unwrap();
        assert!(reached(), "after a restart");
        world.flush_table("podd");
        ip("link del podd0");
        let second = world.pod(&network, "b", &[]);
        assert_ne!(second.address, pod.address);
        assert!(reached(), "with the next pod");
        world.flush_table("podd");
        world.pod(&network, "c", &[port(Protocol::Tcp, None, 8081, 80)]);
        assert!(reached(), "with the next host port");
    });
}

#[test]
fn a_restart_keeps_the_living_and_frees_the_dead() {
    World::run(|world| {
        let ports = [port(Protocol::Tcp, None, 8080, 80)];
        let first = world.network();
        let (a, b) = (world.pod(&first, "a", &[]), world.pod(&first, "b", &ports));
        let again = world.network();
        again.restore(&[attached(&a, &[])]).unwrap();
        assert!(tcp(&b.place(), SocketAddr::new(b.address, 80), &world.outside(), at(HOST, 8080)).is_err());
        let c = world.pod(&again, "c", &ports);
        assert!(![a.address, b.address].contains(&c.address), "not reused at once");
        assert!(tcp(&c.place(), SocketAddr::new(c.address, 80), &a.place(), SocketAddr::new(c.address, 80)).is_ok());
        std::fs::remove_file(world.state().join("leases")).unwrap();
        let lost = world.network();
        lost.restore(&[attached(&a, &[]), attached(&c, &ports)]).unwrap();
        assert_eq!(lost.port_holders()[0].holder, "sandbox c");
        for at in 0..4 {
            let pod = world.pod(&lost, &format!("d{at}"), &[]);
            assert!(![a.address, c.address].contains(&pod.address));
        }
    });
}

#[test]
fn shutdown_leaves_the_machine_as_it_was() {
    World::run(|world| {
        let before = world.picture();
        let network = world.network();
        assert_eq!(world.picture(), before, "opening changes nothing");
        network.shutdown().unwrap();
        let pod = world.pod(&network, "pod-a", &[port(Protocol::Tcp, None, 8080, 80)]);
        assert_eq!(world.table_elements(), 1);
        assert!(matches!(network.shutdown(), Err(Error::Busy { pods: 1 })));
        network.detach("pod-a").unwrap();
        assert!(ip("-o link show").contains("podd0"));
        assert_eq!(world.table_elements(), 0);
        // Its namespace is still there, as that of a shim that takes its time.
        network.shutdown().unwrap();
        assert_eq!(world.picture(), before);
        drop(pod);
        network.shutdown().unwrap();
        // And from the start: what a killed agent left behind goes with the next one that finds no pod alive.
        let _left = world.pod(&network, "b", &[port(Protocol::Tcp, None, 8080, 80)]);
        world.network().restore(&[]).unwrap();
        assert_eq!(world.picture(), before);
    });
}

#[test]
fn attach_and_detach_can_be_repeated() {
    World::run(|world| {
        let network = world.network();
        network.detach("never seen").unwrap();
        let ports = [port(Protocol::Tcp, None, 8080, 80), port(Protocol::Tcp, None, 8080, 80)];
        let pod = world.pod(&network, "a", &ports);
        let netns = world.netns();
        assert_eq!(network.attach("a", netns.as_fd(), &ports).unwrap(), [pod.address]);
        let moved = Pod { id: "a".into(), address: pod.address, netns };
        assert!(tcp(&moved.place(), SocketAddr::new(pod.address, 80), &world.outside(), at(HOST, 8080)).is_ok());
        network.detach("a").unwrap();
        network.detach("a").unwrap();
        assert!(network.port_holders().is_empty());
    });
}

#[test]
fn an_address_whose_old_link_lives_on_is_the_new_pods_alone() {
    World::run(|world| {
        let network = world.network_with(|config| config.subnets = vec!["10.9.0.0/29".parse().unwrap()]);
        let held = world.pod(&network, "held", &[]);
        network.detach("held").unwrap();
        let others: Vec<Pod> = (0..4).map(|at| world.pod(&network, &format!("p{at}"), &[])).collect();
        let heir = world.pod(&network, "heir", &[]);
        assert_eq!(heir.address, held.address);
        assert!(
            tcp(
                &heir.place(),
                SocketAddr::new(heir.address, 80),
                &others[0].place(),
                SocketAddr::new(heir.address, 80)
            )
            .is_ok()
        );
        assert_eq!(held.place().run(|| ip("-o link show")).lines().count(), 1, "only loopback is left");
        let error = network.attach("more", world.netns().as_fd(), &[]).unwrap_err();
        assert!(error.to_string().starts_with("subnet 10.9.0.0/29 has no free address left, all 5"), "{error}");
    });
}

#[test]
fn pods_attached_side_by_side_are_apart() {
    World::run(|world| {
        let network = world.network();
        let made = |worker: u16| -> Vec<Pod> {
            let ports = |at| [port(Protocol::Tcp, None, 8000 + worker * 10 + at, 80)];
            (0..10).map(|at| world.pod(&network, &format!("pod-{worker}-{at}"), &ports(at))).collect()
        };
        let made = &made;
        let pods: Vec<Pod> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || made(worker))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        let addresses: HashSet<IpAddr> = pods.iter().map(|pod| pod.address).collect();
        assert_eq!((addresses.len(), world.table_elements()), (40, 40));
        for pod in pods.iter().step_by(13) {
            let web = SocketAddr::new(pod.address, 80);
            assert_eq!(tcp(&pod.place(), web, &pods[0].place(), web).unwrap().ip(), pods[0].address);
        }
    });
}

#[test]
fn a_full_bridge_says_so() {
    World::run(|world| {
        let network = world.network();
        world.pod(&network, "a", &[]);
        let pair = |at| format!("link add l{at} master podd0 type veth peer name r{at}\nlink set r{at} master podd0\n");
        ip_batch(&(0..512).map(pair).collect::<String>());
        let error = network.attach("b", world.netns().as_fd(), &[]).unwrap_err();
        assert_eq!(error.kind(), podd_net::Kind::Exhausted);
        assert!(error.to_string().starts_with("bridge podd0 has no free port left: 1023"), "{error}");
        assert!(!ip("-o link show").contains("pod0a550003"));
    });
}

#[test]
fn pods_of_an_older_subnet_go_on() {
    World::run(|world| {
        let old = world.pod(&world.network(), "old", &[]);
        let network = world.network_with(|config| config.subnets = vec!["10.9.0.0/24".parse().unwrap()]);
        network.restore(&[attached(&old, &[])]).unwrap();
        let new = world.pod(&network, "new", &[]);
        assert_eq!(new.address.to_string(), "10.9.0.2");
        for pod in [&old, &new] {
            let seen = tcp(&world.outside(), at(OUTSIDE, 80), &pod.place(), at(OUTSIDE, 80));
            assert_eq!(seen.unwrap().ip().to_string(), HOST);
        }
    });
}

#[test]
fn another_attach_with_other_ports_leaves_none_of_the_old() {
    World::run(|world| {
        let network = world.network();
        world.pod(&network, "pod-a", &[port(Protocol::Tcp, None, 8080, 80), port(Protocol::Tcp, None, 8081, 80)]);
        world.pod(&network, "pod-a", &[port(Protocol::Tcp, None, 8082, 80)]);
        assert_eq!((network.port_holders().len(), world.table_elements()), (1, 1));
    });
}

#[test]
fn a_torn_attach_leaves_nothing() {
    World::run(|world| {
        let network = world.network();
        let _first = world.pod(&network, "a", &[]);
        let before = ip("-o link show");
        let netns = world.netns();
        // The pod's end cannot be made: there is one already.
        Place::of(&netns).run(|| ip("link add eth0 type bridge"));
        let error = network.attach("b", netns.as_fd(), &[port(Protocol::Tcp, None, 8080, 80)]).unwrap_err();
        assert!(error.to_string().starts_with("make interface pod0a550003"), "{error}");
        assert!(network.port_holders().is_empty());
        assert_eq!(ip("-o link show"), before);
    });
}

#[test]
fn what_is_somebody_elses_is_left_alone_and_named() {
    World::run(|world| {
        let netns = world.netns();
        let refused = |network: &Network| network.attach("x", netns.as_fd(), &[]).unwrap_err().to_string();
        ip("link add podd0 type bridge");
        assert_eq!(
            refused(&world.network()),
            "bridge podd0 belongs to somebody else; give this instance another name, or remove it"
        );
        ip("link del podd0");
        ip("link add other type bridge");
        ip("addr add 10.85.7.1/24 dev other");
        ip("link set other up");
        let text = refused(&world.network());
        assert!(text.starts_with("subnet 10.85.0.0/16 overlaps route 10.85.7."), "{text}");
        assert!(text.ends_with("of interface other; set another network.subnet"), "{text}");
        ip("link del other");
        let network = world.network();
        world.pod(&network, "a", &[port(Protocol::Udp, None, 53, 53)]);
        let twin = Config::new("podd", &world.state().join("other"), "boot");
        let text = refused(&Network::open(twin).unwrap());
        assert!(text.starts_with("bridge podd0 belongs to \"podd podd "), "{text}");
        let mut two = Config::new("two", &world.state().join("two"), "boot");
        let text = refused(&Network::open(two.clone()).unwrap());
        assert!(text.contains("of interface podd0"), "{text}");
        two.subnets = vec!["10.86.0.0/16".parse().unwrap()];
        let two = Network::open(two).unwrap();
        let error = two.attach("x", netns.as_fd(), &[port(Protocol::Udp, Some(HOST), 53, 53)]).unwrap_err();
        let expected = format!("host port 53/udp on {HOST} is taken by sandbox a of nft table podd");
        assert_eq!(error.to_string(), expected);
        two.attach("x", netns.as_fd(), &[port(Protocol::Tcp, None, 53, 53)]).unwrap();
    });
}

#[test]
fn fifty_pods_come_and_go_and_leak_nothing() {
    World::run(|world| {
        let network = world.network();
        drop(world.pod(&network, "first", &[]));
        network.detach("first").unwrap();
        let mut attach = Vec::new();
        let mut detach = Vec::new();
        for at in 0..50 {
            let (id, netns) = (format!("pod-{at}"), world.netns());
            let ports = [port(Protocol::Tcp, None, 8000 + at, 80)];
            let begun = Instant::now();
            network.attach(&id, netns.as_fd(), &ports).unwrap();
            attach.push(begun.elapsed());
            let begun = Instant::now();
            network.detach(&id).unwrap();
            detach.push(begun.elapsed());
        }
        world::eventually("links of ended pods go", || !ip("-o link show").contains(" pod0a55"));
        assert!(network.port_holders().is_empty());
        assert_eq!(world.table_elements(), 0);
        attach.sort();
        detach.sort();
        println!("attach {:?} (p10 {:?}), detach {:?}", attach[25], attach[5], detach[25]);
    });
}
