//! The machine goes down: pods end in order while logind waits. It is a stand-in on a bus of the test's own.

#![expect(missing_docs, reason = "zbus makes a public trait of the signals, without comments")]

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};
use zbus::object_server::SignalEmitter;

/// Everybody who holds the machine up: what was asked for, and the other end of the descriptor that was handed out.
type Held = Arc<Mutex<Vec<(String, File)>>>;

struct Login(Held);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Login {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::fdo::Result<zbus::zvariant::OwnedFd> {
        let (ours, theirs) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
                .map_err(|error| zbus::fdo::Error::Failed(error.to_string()))?;
        self.0.lock().expect("no test panics here").push((format!("{what} {who} {why} {mode}"), File::from(ours)));
        Ok(theirs.into())
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        60_000_000
    }

    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

/// A bus with a logind on it.
struct Bus {
    daemon: Child,
    address: String,
    held: Held,
    connection: zbus::Connection,
    runtime: tokio::runtime::Runtime,
}

impl Bus {
    fn start(node: &Node) -> Bus {
        let address = format!("unix:path={}", node.path().join("bus").display());
        let policy = "<policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy>";
        let configuration = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>{policy}</busconfig>\n"
        );
        let path = node.file("bus.conf", &configuration);
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--nopidfile", &format!("--config-file={path}")]).stdin(Stdio::null());
        let daemon = command.spawn().expect("dbus-daemon is installed");
        wait_for(
            SOON,
            "the bus listens",
            || if node.path().join("bus").exists() { Ok(()) } else { Err(String::new()) },
        );
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let held = Held::default();
        let connection = runtime.block_on(async {
            let builder = zbus::connection::Builder::address(address.as_str())?;
            let builder = builder.name("org.freedesktop.login1")?;
            builder.serve_at("/org/freedesktop/login1", Login(held.clone()))?.build().await
        });
        Bus { daemon, address, held, connection: connection.expect("a logind on the bus"), runtime }
    }

    fn announce(&self, start: bool) {
        let told = self.runtime.block_on(async {
            let emitter = SignalEmitter::new(&self.connection, "/org/freedesktop/login1")?;
            Login::prepare_for_shutdown(&emitter, start).await
        });
        told.expect("a signal");
    }

    /// Who holds the machine up.
    fn holders(&self) -> Vec<String> {
        let mut held = self.held.lock().expect("no test panics here");
        // At the end of a pipe that nobody holds there is nothing to read, instead of nothing yet.
        held.retain_mut(|(_, pipe)| !matches!(pipe.read(&mut [0]), Ok(0)));
        held.iter().map(|(told, _)| told.clone()).collect()
    }

    fn wait_held(&self, times: usize) {
        wait_for(SOON * 2, &format!("the machine is held up by {times}"), || {
            let holders = self.holders();
            if holders.len() == times { Ok(()) } else { Err(format!("{holders:?}")) }
        });
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn pod(name: &str, more: &str, seconds: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{more}  terminationGracePeriodSeconds: 30\n  containers:\n  \
         - {{name: c, image: '{BUSYBOX}', command: [sh, -c, \"trap 'sleep {seconds}; exit 0' TERM; while true; do sleep 0.1; done\"]}}\n---\n"
    )
}

#[test]
fn pods_end_before_the_machine_does_critical_ones_last() {
    let mut node = Node::new();
    let bus = Bus::start(&node);
    node.file(
        "config.toml",
        "[agent]\nshutdown-grace-period = \"20s\"\nshutdown-grace-period-critical-pods = \"5s\"\n",
    );
    node.start_agent_with(&[("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)]);
    node.load_busybox();
    bus.wait_held(1);
    assert_eq!(bus.holders(), ["shutdown podd podd ends its pods in order delay"]);
    node.file("manifests/static.yaml", &pod("static", "", 0));
    let critical = pod("critical", "  priorityClassName: system-cluster-critical\n", 0);
    node.apply_and_wait(&(pod("slow", "", 2) + &critical));
    let of_file = format!("pod/static-{}", node.field("node", "/items/0/metadata/name"));
    node.wait_field(&of_file, "/status/phase", "Running");

    bus.announce(true);
    let ready = || node.field("node", "/items/0/status/conditions/3").replace('"', "");
    wait_for(SOON, "the node tells that it goes down", || {
        let told = ready();
        let all = ["type:Ready", "status:False", "message:node is shutting down", "reason:KubeletNotReady"];
        if all.iter().all(|part| told.contains(part)) { Ok(()) } else { Err(told) }
    });
    bus.wait_held(0);
    assert!(node.pod_processes().is_empty(), "nothing runs when the machine may go");
    for name in ["pod/slow", "pod/critical", of_file.as_str()] {
        assert_eq!(node.field(name, "/status/phase"), "Failed", "{name}");
        assert_eq!(node.field(name, "/status/reason"), "Terminated", "{name}");
        assert_eq!(node.field(name, "/status/message"), "Pod was terminated in response to imminent node shutdown.");
        assert_eq!(node.field(name, "/status/containerStatuses/0/state/terminated/exitCode"), "0", "{name}");
        assert!(node.field(name, "/status/conditions").contains("DisruptionTarget"), "{name}");
    }
    let end = |name: &str| node.field(name, "/status/containerStatuses/0/state/terminated/finishedAt");
    assert!(end(&of_file) < end("pod/critical") && end("pod/slow") <= end("pod/critical"), "critical ones are last");
    node.apply(&pod("late", "", 0)).ok();
    node.wait_field("pod/late", "/status/reason", "NodeShutdown");
    assert_eq!(
        node.field("pod/late", "/status/message"),
        "Pod was rejected: Pod was rejected as the node is shutting down."
    );

    // Somebody has thought better of it.
    bus.announce(false);
    bus.wait_held(1);
    wait_for(SOON, "the node is ready", || if ready().contains("status:True") { Ok(()) } else { Err(ready()) });
    node.apply_and_wait(&pod("later", "", 0));
    node.stop_agent(false);
    bus.wait_held(0);
    node.start_agent();
    node.wait_field(&of_file, "/status/phase", "Running");
    assert_eq!(node.field("pod/slow", "/status/reason"), "Terminated", "it is not run again");
    assert_eq!(node.field("pod/later", "/status/containerStatuses/0/restartCount"), "0", "the agent's end is not its");
}

#[test]
fn a_machine_without_logind_is_told_of_and_does_no_harm() {
    let mut node = Node::new();
    node.file("config.toml", "[agent]\nshutdown-grace-period = \"20s\"\n");
    node.start_agent_with(&[("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/at/all")]);
    node.load_busybox();
    node.apply_and_wait(&pod("p", "", 0));
    wait_for(SOON, "the log tells", || {
        let log = node.agent_log();
        if log.contains("no logind to tell when the machine goes down") { Ok(()) } else { Err(log) }
    });
}
