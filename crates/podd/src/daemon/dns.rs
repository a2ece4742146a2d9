//! `podd dns`: the name server of the pods, as the agent starts it. It listens in the network of a sandbox, asks other
//! servers from the node's, and outlives the agent.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use podd_sys::namespace::{self, Kind};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cli::Dns;

/// Where clients ask (RFC 1035).
const PORT: u16 = 53;
/// The longest that an earlier server may hold the lock, and how often it is tried meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn run(args: Dns) -> anyhow::Result<()> {
    super::start_tracing();
    // Out of the agent's control group first: a service that stops takes its groups with it.
    for file in &args.join {
        std::fs::write(file, "0").with_context(|| format!("join {}", file.display()))?;
    }
    let _lock = lock(&args)?;
    let network = File::open(&args.network).with_context(|| format!("open {}", args.network.display()))?;
    // Sockets belong to the namespace that they were made in; only this thread goes there.
    let addresses = args.listen.clone();
    let listening = std::thread::spawn(move || -> anyhow::Result<Vec<podd_dns::Listeners>> {
        namespace::enter(network.as_fd(), Kind::Net).context("enter the sandbox's network")?;
        addresses.iter().map(|ip| Ok(podd_dns::listen(SocketAddr::new(*ip, PORT))?)).collect()
    });
    let listeners = listening.join().map_err(|_| anyhow!("the thread that listens panicked"))??;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the async runtime")?;
    let options = podd_dns::Options { table: args.table, upstream: args.upstream };
    runtime.block_on(async { podd_dns::serve(listeners, options).await }).context("serve names")
}

/// The lock that says that we are there. An earlier server that was killed a moment ago may still hold it.
fn lock(args: &Dns) -> anyhow::Result<File> {
    let what = || format!("lock {}", args.lock.display());
    let mut file = File::options().create(true).truncate(false).write(true).open(&args.lock).with_context(what)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(PAUSE),
            locked => break locked.with_context(what)?,
        }
    }
    file.set_len(0).with_context(what)?;
    write!(file, "{} {}", std::process::id(), args.started_for).with_context(what)?;
    Ok(file)
}
