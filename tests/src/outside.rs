//! The world beyond a node: a second machine on a wire to it, as a network namespace of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::{Node, Output};

/// A machine outside a node, which is the node's way to everywhere.
pub struct Outside {
    holder: Child,
}

impl Outside {
    /// The node's address on the wire.
    pub const NODE: &str = "198.51.100.1";
    /// The other end's.
    pub const ADDRESS: &str = "198.51.100.2";
    /// The wire's MTU.
    pub const MTU: &str = "1400";

    /// Lays a wire to the node, with the node's default route over it. An agent looks for its uplink when it starts.
    ///
    /// # Panics
    /// When the machine does not allow it.
    pub fn of(node: &Node) -> Self {
        let mut holder = node
            .command("unshare")
            .args(["--net", "--", "/bin/busybox", "sh", "-c"])
            .arg("/bin/busybox ip link set lo up && echo ready && exec /bin/busybox sleep 1000000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (package util-linux) runs");
        let mut line = String::new();
        let read = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line);
        // A drop from here on ends the holder.
        let outside = Self { holder };
        assert!(read.is_ok() && line == "ready\n", "no namespace for the outside");
        let pid = outside.holder.id().to_string();
        let ip = |words: &str| node.enter(&[&["ip"], words.split(' ').collect::<Vec<_>>().as_slice()].concat());
        ip(&format!("link add up0 mtu {} type veth peer name out0 mtu {} netns {pid}", Self::MTU, Self::MTU)).ok();
        ip(&format!("address add {}/24 dev up0", Self::NODE)).ok();
        ip("link set up0 up").ok();
        ip(&format!("route add default via {}", Self::ADDRESS)).ok();
        outside.run(&["ip", "address", "add", &format!("{}/24", Self::ADDRESS), "dev", "out0"]).ok();
        outside.run(&["ip", "link", "set", "out0", "up"]).ok();
        outside
    }

    /// Runs a command out there.
    pub fn run(&self, command: &[&str]) -> Output {
        let output = self.command("timeout").args(["-k", "5", "120"]).args(command).output().expect("a command runs");
        Output::of(command.join(" "), &output)
    }

    /// A command out there, to be started by the test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holder.id().to_string(), "--", program]).stdin(Stdio::null());
        command
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _may_have_ended = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}
