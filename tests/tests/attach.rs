//! `podd attach` and `podd port-forward`, through the API, the kubelet's interface and the runtime's streams.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};

use podd_tests::{Node, SOON, program, wait_for};

/// A command that goes on; ended with the value.
struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<String>,
}

impl Talk {
    fn start(node: &Node, program: &str, args: &[&str]) -> Self {
        let mut command = node.command(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("nsenter runs");
        let (say, said) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for output in outputs {
            let say = say.clone();
            // Ends with the command.
            std::thread::spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = String::new();
                while output.read_line(&mut line).is_ok_and(|count| count > 0) {
                    let _nobody_listens = say.send(std::mem::take(&mut line));
                }
            });
        }
        Self { stdin: child.stdin.take(), child, said }
    }

    fn podd(node: &Node, args: &[&str]) -> Self {
        Self::start(node, program().to_str().expect("a plain path"), args)
    }

    fn say(&mut self, text: &str) {
        self.stdin.as_mut().expect("it is open").write_all(text.as_bytes()).expect("it is written");
    }

    /// Reads until a line has this in it.
    #[track_caller]
    fn hear(&self, wanted: &str) -> String {
        let mut heard = String::new();
        loop {
            match self.said.recv_timeout(SOON) {
                Ok(line) if line.contains(wanted) => return line,
                Ok(line) => heard += &line,
                Err(error) => panic!("no {wanted:?} ({error}) but {heard:?}"),
            }
        }
    }

    /// Waits for the end, at most as long as anything may take; the exit code, and what was not yet read.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut code = None;
        wait_for(SOON, "the command ends", || match self.child.try_wait().expect("a child can be waited for") {
            Some(status) => {
                code = status.code();
                Ok(())
            }
            None => Err("it goes on".to_owned()),
        });
        (code, self.said.iter().collect())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A pod of one container with these fields.
fn pod(name: &str, fields: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  restartPolicy: \
         Never\n  containers:\n  - name: main\n    image: busybox:test\n{fields}    command: [sh, -c, {script:?}]\n"
    )
}

const EXIT_CODE: &str = "/status/containerStatuses/0/state/terminated/exitCode";

#[test]
fn what_is_typed_reaches_a_container_and_the_next_client_goes_on() {
    let node = Node::with_agent();
    let script = "while read word; do echo got $word; echo err $word >&2; [ $word = end ] && exit 7; done";
    node.apply_and_wait(&pod("web", "    stdin: true\n", script));
    let mut first = Talk::podd(&node, &["attach", "-i", "web"]);
    first.hear("try pressing enter");
    first.say("one\n");
    first.hear("got one");
    // The end of one client's input is not the container's.
    drop(first.stdin.take());
    drop(first);
    let listener = Talk::podd(&node, &["attach", "pod/web", "-c", "main"]);
    let mut second = Talk::podd(&node, &["attach", "-iq", "web"]);
    // Whether the listener is there already nobody tells; it hears when it is.
    wait_for(SOON, "both hear", || {
        second.say("two\n");
        second.hear("got two");
        listener.said.try_iter().find(|line| line.contains("err two")).map(drop).ok_or_else(String::new)
    });
    second.say("end\n");
    for client in [listener, second] {
        let (code, rest) = client.ended();
        assert_eq!(code, Some(0), "{rest}");
        assert!(rest.contains("got end"), "{rest}");
    }
    node.wait_field("pod/web", EXIT_CODE, "7");
    let told = node.podd(&["attach", "web"]);
    assert!(told.refused().contains("cannot attach a container in a completed pod; current phase is Failed"));
}

#[test]
fn clients_that_have_left_make_room_for_others() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod("a", "    stdin: true\n", "exec cat"));
    // More than may be attached at a time; on its standard error the container never says anything.
    for number in 0..70 {
        let mut talk = Talk::podd(&node, &["attach", "-i", "a"]);
        talk.say(&format!("line {number}.\n"));
        talk.hear(&format!("line {number}."));
    }
}

#[test]
fn an_input_for_one_client_ends_with_it() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod("once", "    stdin: true\n    stdinOnce: true\n", "cat; echo after; exit 9"));
    let mut client = Talk::podd(&node, &["attach", "-iq", "once"]);
    client.say("hello\n");
    client.hear("hello");
    // What comes after the end of the input is heard.
    drop(client.stdin.take());
    client.hear("after");
    let (code, rest) = client.ended();
    assert_eq!(code, Some(0), "{rest}");
    node.wait_field("pod/once", EXIT_CODE, "9");
}

#[test]
fn a_terminal_is_attached_to_and_has_its_clients_size() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod("shell", "    stdin: true\n    tty: true\n", "exec sh"));
    let line = format!("stty rows 37 cols 91; {} attach -itq shell", program().display());
    let mut client = Talk::start(&node, "timeout", &["60", "script", "-qec", &line, "/dev/null"]);
    client.say("until [ \"$(stty size)\" = '37 91' ]; do sleep 0.02; done; tty; echo si''zed\n");
    client.hear("/dev/pts/0");
    client.hear("sized");
    client.say("exit 3\n");
    let (code, rest) = client.ended();
    assert_eq!(code, Some(0), "{rest}");
    node.wait_field("pod/shell", EXIT_CODE, "3");
}

#[test]
fn what_cannot_be_attached_to_or_forwarded_is_refused_with_the_reason() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod("plain", "", "trap 'exit 0' TERM; while :; do echo tick; sleep 0.05; done"));
    node.apply(&pod("late", "", "true").replace("busybox:test", "127.0.0.1:1/none:1")).ok();
    let refused = |args: &[&str]| node.podd(args).refused().to_owned();
    assert!(refused(&["attach", "nobody"]).contains("pods \"nobody\" not found"));
    assert!(refused(&["attach", "plain", "-c", "x"]).contains("container x is not valid for pod plain"));
    let waits = "container \"main\" in pod \"late\" is not running; it is waiting to start";
    assert!(refused(&["attach", "late"]).contains(waits));
    assert!(refused(&["exec", "late", "--", "true"]).contains(waits));
    assert!(refused(&["port-forward", "late", "80"]).contains("pod is not running. Current status=Pending"));
    assert!(refused(&["port-forward", "plain", "0"]).contains("ports are between 1 and 65535"));
    assert!(refused(&["port-forward", "plain", "80", "--address", "example"]).contains("not a valid IP"));
    // A terminal is the container's own; without one it is attached to all the same.
    let client = Talk::podd(&node, &["attach", "-t", "plain"]);
    client.hear("container main has no terminal");
    client.hear("tick");
}

/// What a client in the node's network hears from a port after it has said a word and ended its side.
fn ask(node: &Node, address: &str) -> String {
    node.enter(&["sh", "-c", &format!("echo hello | socat -t 30 - TCP:{address}")]).stdout
}

#[test]
fn ports_of_a_pod_are_reached_until_it_ends() {
    let node = Node::with_agent();
    let ports = "    ports: [{name: talk, containerPort: 8080}]\n";
    // It says more once its client has said all, so each half of a connection ends by itself.
    let script = "trap 'exit 0' TERM; nc -ll -p 8080 -e sh -c 'cat; echo all said' & while :; do sleep 0.1; done";
    node.apply_and_wait(&pod("web", ports, script));
    let forward = Talk::podd(&node, &["port-forward", "pod/web", "18080:talk", ":9"]);
    assert_eq!(forward.hear("Forwarding from 127"), "Forwarding from 127.0.0.1:18080 -> 8080\n");
    let closed = forward.hear(" -> 9\n");
    let closed = closed.trim_start_matches("Forwarding from ").split(' ').next().expect("an address").to_owned();
    wait_for(SOON, "the pod answers", || {
        let heard = ask(&node, "127.0.0.1:18080");
        if heard == "hello\nall said\n" { Ok(()) } else { Err(heard) }
    });
    forward.hear("Handling connection for 18080");
    // A closed port is told of, and does no harm to the other.
    assert_eq!(ask(&node, &closed), "");
    let told = forward.hear("an error occurred forwarding");
    assert!(told.contains(" -> 9: error forwarding port 9 to pod") && told.contains("refused"), "{told}");
    let parallel: Vec<String> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&node, "127.0.0.1:18080"))).collect();
        asks.into_iter().map(|ask| ask.join().expect("it ends")).collect()
    });
    assert!(parallel.iter().all(|heard| heard == "hello\nall said\n"), "{parallel:?}");
    // Much of it, both ways.
    let script = "head -c 3000000 /dev/zero | socat -t 30 - TCP:127.0.0.1:18080 | wc -c";
    assert_eq!(node.enter(&["sh", "-c", script]).ok().trim(), "3000009");
    // A second one cannot have the same port.
    let taken = node.podd(&["port-forward", "web", "18080:8080", "--address", "127.0.0.1"]);
    assert!(taken.refused().contains("unable to listen on port 18080"), "{}", taken.stderr);
    // Interrupted, it ends well.
    let other = Talk::podd(&node, &["port-forward", "web", "18081:8080", "--address", "127.0.0.1"]);
    other.hear("Forwarding from 127.0.0.1:18081 -> 8080");
    rustix::process::kill_process(rustix::process::Pid::from_child(&other.child), rustix::process::Signal::INT)
        .expect("it runs");
    assert_eq!(other.ended().0, Some(0));
    node.podd(&["delete", "pod", "web"]).ok();
    let (code, rest) = forward.ended();
    assert!(code == Some(1) && rest.contains("lost connection to pod"), "{code:?} {rest}");
}
