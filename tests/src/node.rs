//! A node of its own for each test: network and mount namespaces, state, run, log and manifest directories, a control
//! group, an instance name. It is kept, and taken away, by a process of its own ([`crate::keeper`]).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::keeper::{self, Kept};
use crate::{Output, SOON, image, nft, wait_for};

/// The longest that any command of a test takes.
const LONGEST_COMMAND: &str = "120";

/// A node. Everything that runs on it ends with the value.
pub struct Node {
    instance: String,
    kept: Kept,
    agent: Option<Child>,
}

impl Node {
    /// A fresh node, without an agent.
    ///
    /// # Panics
    /// When the machine does not allow one: the tests run as root.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let instance = format!("t{}x{}", std::process::id() % 1_000_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let kept = Kept::start(&instance);
        for name in ["root", "run", "logs", "manifests"] {
            std::fs::create_dir(kept.directory.join(name)).expect("a directory");
        }
        Self { instance, kept, agent: None }
    }

    /// A node whose agent runs and has the busybox image.
    pub fn with_agent() -> Self {
        let mut node = Self::new();
        node.start_agent();
        node.load_busybox();
        node
    }

    /// Loads [`image::BUSYBOX`].
    pub fn load_busybox(&self) {
        let archive = image::busybox(self.path());
        self.podd(&["load", "-i", archive.to_str().expect("a plain path")]).ok();
    }

    /// The node's directory: `root`, `run`, `logs` and `manifests` lie in it, and what the test puts there.
    pub fn path(&self) -> &Path {
        &self.kept.directory
    }

    /// The instance's name; its control group is `/podd-test-<instance>`.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Writes a file into the node's directory.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, content).expect("a file is written");
        path.to_str().expect("a plain path").to_owned()
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Output {
        let path = self.file("applied.yaml", manifest);
        self.podd(&["apply", "-f", &path])
    }

    /// Applies a manifest and waits until its pods are Ready.
    pub fn apply_and_wait(&self, manifest: &str) {
        let path = self.file("applied.yaml", manifest);
        self.podd(&["apply", "--wait", "--timeout=60s", "-f", &path]).ok();
    }

    /// Runs podd's command line on the node.
    pub fn podd(&self, args: &[&str]) -> Output {
        let mut all = vec![program().to_str().expect("a plain path").to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.run(&all)
    }

    /// Runs a command of the machine in the node's namespaces.
    pub fn enter(&self, command: &[&str]) -> Output {
        self.run(&command.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn run(&self, words: &[String]) -> Output {
        let mut command = self.command("timeout");
        let output = command.args(["-k", "5", LONGEST_COMMAND]).args(words).stdin(Stdio::null()).output();
        Output::of(words.join(" "), &output.expect("a command runs"))
    }

    /// A command in the node's namespaces, to be started by the test.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.kept.holder.to_string(), "--"]).arg(program);
        let path = |name: &str| self.path().join(name);
        command
            .env("PODD_CONFIG", self.configuration())
            .env("PODD_INSTANCE", &self.instance)
            .env("PODD_ROOT", path("root"))
            .env("PODD_RUN", path("run"))
            .env("PODD_LOGS", path("logs"))
            .env("PODD_MANIFESTS", path("manifests"))
            .env("PODD_CGROUP_ROOT", keeper::cgroup(&self.instance));
        command
    }

    /// The configuration file: what the test has written, and that pods are on podd's own network and the
    /// node is short of nothing if it does not say. The machine may have a CNI configuration of somebody else's, and a full disk.
    fn configuration(&self) -> PathBuf {
        let path = self.path().join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lacks = |table: &str| !text.lines().any(|line| line == table);
        let mut more = String::new();
        if lacks("[cni]") {
            more += "\n[cni]\nnetwork = \"podd\"\n";
        }
        if lacks("[agent.eviction]") {
            more += "\n[agent.eviction]\nhard = {}\n";
        }
        if lacks("[images]") {
            more += "\n[images]\ngc-high-threshold = 100\n";
        }
        if !more.is_empty() {
            std::fs::write(&path, text + &more).expect("a file is written");
        }
        path
    }

    /// Starts the agent and waits until it answers. Its log is `agent.txt`.
    pub fn start_agent(&mut self) {
        self.start_agent_with(&[]);
    }

    /// Starts the agent with further environment variables.
    pub fn start_agent_with(&mut self, variables: &[(&str, &str)]) {
        let log = std::fs::File::options().create(true).append(true).open(self.path().join("agent.txt"));
        let log = log.expect("a file is opened");
        let mut command = self.command(program());
        command.envs(variables.iter().copied());
        command.arg("agent").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut agent = command.spawn().expect("podd runs");
        wait_for(SOON, "the agent answers", || {
            if let Some(status) = agent.try_wait().expect("a child can be asked after") {
                panic!("the agent ended with {status}:\n{}", self.agent_log());
            }
            let answer = self.podd(&["agent", "status"]);
            if answer.code == 0 { Ok(()) } else { Err(answer.stdout) }
        });
        self.agent = Some(agent);
    }

    /// The agent's process id. `nsenter` and `podd` are one process.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent was started").id()
    }

    /// What the agent has logged.
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.path().join("agent.txt")).unwrap_or_default()
    }

    /// Kills the agent as a crash would.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().expect("a child can be killed");
            agent.wait().expect("a child can be waited for");
        }
    }

    /// Asks the agent to end and waits for it.
    pub fn stop_agent(&mut self, pods: bool) -> Output {
        let output = self.podd(if pods { &["agent", "stop", "--pods"] } else { &["agent", "stop"] });
        if let Some(mut agent) = self.agent.take() {
            agent.wait().expect("a child can be waited for");
        }
        output
    }

    /// A field of an object, by JSON pointer (`/status/phase`); empty when it is absent.
    pub fn field(&self, object: &str, pointer: &str) -> String {
        let output = self.podd(&["get", object, "-o", "json"]);
        let value: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        match value.pointer(pointer) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// Waits until a field of an object has a value.
    pub fn wait_field(&self, object: &str, pointer: &str, wanted: &str) {
        self.wait_field_for(Duration::from_secs(60), object, pointer, wanted);
    }

    /// Waits at most so long until a field of an object has a value.
    pub fn wait_field_for(&self, deadline: Duration, object: &str, pointer: &str, wanted: &str) {
        wait_for(deadline, &format!("{object} {pointer} is {wanted}"), || {
            let seen = self.field(object, pointer);
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?}\n{}", self.podd(&["describe", object]).stdout)) }
        });
    }

    /// The control groups of the node, in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        keeper::cgroups(&self.instance)
    }

    /// The nft tables of the node.
    pub fn nft_tables(&self) -> Vec<String> {
        nft::tables(self.kept.holder).expect("the kernel lists nft tables")
    }

    /// Every process in the control groups of pods: containers, and neither shims nor the name server.
    pub fn pod_processes(&self) -> Vec<i32> {
        let of_pods = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|own| own.contains("/kubepods"))
        };
        self.processes().into_iter().filter(of_pods).collect()
    }

    /// Every process in the node's control groups.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.cgroups().iter().flat_map(|top| processes_below(top)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent ---\n{}", self.agent_log());
        }
        self.kill_agent();
        let gone = self.kept.end();
        assert!(gone || std::thread::panicking(), "something of the node is left");
    }
}

/// The program under test: `PODD_BIN`, or what was built beside this test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("PODD_BIN") {
        return path.into();
    }
    built("podd")
}

/// A program that was built beside this test.
pub(crate) fn built(name: &str) -> PathBuf {
    let path = profile().join(name);
    assert!(path.exists(), "{} is missing: `cargo build -p podd -p podd-tests` makes it", path.display());
    path
}

/// `target/<profile>`.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps").to_owned()
}

/// `target`.
pub(crate) fn target() -> PathBuf {
    profile().parent().expect("a profile lies in target").to_owned()
}

fn processes_below(group: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.path().is_dir() {
            pids.extend(processes_below(&entry.path()));
        }
    }
    pids
}
