//! The network of an instance, as its runtime uses it.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::host::{self, Host};
use crate::ledger::{Lease, Ledger};
use crate::links;
use crate::machine;
use crate::netlink::{NETFILTER, ROUTE, Socket};
use crate::ports::{self, PortHolder, PortMapping};
use crate::sockets;

/// A pod that lives, as the runtime's records have it.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The sandbox's id.
    pub sandbox: String,
    /// The addresses that [`Network::attach`] returned; none for a pod in the host's network.
    pub addresses: Vec<IpAddr>,
    /// The ports it was attached with.
    pub ports: Vec<PortMapping>,
}

/// The pods' network. Calls may come from any thread of the network namespace it was opened in; those of one sandbox must
/// not overlap.
#[derive(Debug)]
pub struct Network {
    config: Config,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// There once the machine was made ready by this value.
    host: Option<Host>,
    /// Sandboxes detached before [`Network::restore`], which a list made earlier still calls alive.
    detached: Option<HashSet<String>>,
}

impl Network {
    /// Reads the leases. The kernel is left alone until the first pod.
    ///
    /// # Errors
    /// When the configuration is impossible, or the leases cannot be read.
    pub fn open(config: Config) -> Result<Self> {
        config.check()?;
        let ledger = Ledger::open(&config.state_dir, &config.subnets)?;
        let state = Mutex::new(State { ledger, host: None, detached: Some(HashSet::new()) });
        Ok(Self { config, state })
    }

    /// Connects a pod: leases its addresses, makes its link and opens its host ports. Returns the addresses, which are the
    /// same as before when the pod is attached already (then its link is made anew).
    ///
    /// # Errors
    /// When a limit is reached, a port is taken, or the kernel refuses; then nothing of it is left.
    pub fn attach(&self, sandbox: &str, netns: BorrowedFd<'_>, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        ports::check(ports)?;
        let attached = self.attach_host(sandbox, netns, ports).and_then(|lease| {
            self.attach_pod(netns, &lease)?;
            if let Some(host) = &mut self.state().host {
                host.settle(&self.config, &lease)?;
            }
            Ok(lease.addresses)
        });
        if let Err(error) = &attached {
            tracing::debug!(sandbox, %error, "undo a torn attach");
            if let Err(error) = self.detach(sandbox) {
                tracing::warn!(sandbox, %error, "undo a torn attach");
            }
        }
        attached
    }

    /// The host's half, up to the pod's end being in its namespace.
    fn attach_host(&self, sandbox: &str, netns: BorrowedFd<'_>, ports: &[PortMapping]) -> Result<Lease> {
        let mut state = self.state();
        let state = &mut *state;
        if state.ledger.lease(sandbox).is_some_and(|lease| lease.ports != ports) {
            // Other ports make it another pod's.
            state.release(&self.config, sandbox)?;
        }
        let mut ready = state.host.is_some();
        loop {
            let host = match &mut state.host {
                Some(host) => host,
                none => none.insert(Host::ensure(&self.config, &mut state.ledger)?),
            };
            let done = self.attach_with(host, &mut state.ledger, sandbox, netns, ports);
            match done {
                // Somebody has taken bridge or table away: they are made anew, once.
                Err(error) if ready && host::is_stale(&error) => {
                    tracing::warn!(sandbox, %error, "bridge or table are gone and are made anew");
                    state.host = None;
                    ready = false;
                }
                done => return done,
            }
        }
    }

    fn attach_with(
        &self,
        host: &mut Host,
        ledger: &mut Ledger,
        sandbox: &str,
        netns: BorrowedFd<'_>,
        ports: &[PortMapping],
    ) -> Result<Lease> {
        if !ports.is_empty() && ledger.lease(sandbox).is_none() {
            let mut holders = ledger.holders();
            holders.extend(host.foreign_holders(&self.config)?);
            holders.extend(sockets::listeners(ports)?);
            ports::check_free(ports, &holders)?;
        }
        let lease = ledger.take(sandbox, ports)?;
        host.create_link(&self.config, &lease, netns)?;
        host.open_ports(&self.config, &lease)?;
        Ok(lease)
    }

    /// The pod's half.
    fn attach_pod(&self, netns: BorrowedFd<'_>, lease: &Lease) -> Result<()> {
        let mut socket = Self::enter(netns)?;
        let index = machine::index_of(&mut socket, links::POD_INTERFACE)?;
        let gateways = self.config.gateways();
        let of_family =
            |address: &IpAddr| gateways.iter().find(|gateway| gateway.addr().is_ipv4() == address.is_ipv4());
        let with_prefix = |address: &IpAddr| IpNet::new(*address, of_family(address)?.prefix_len()).ok();
        let addresses: Vec<IpNet> = lease.addresses.iter().filter_map(with_prefix).collect();
        host::apply(&mut socket, links::configure_pod(index, &addresses, &gateways))?;
        machine::settle(&mut socket, links::POD_INTERFACE)
    }

    /// Gives a namespace its loopback and nothing else, for a pod that others wire.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_up_loopback(netns: BorrowedFd<'_>) -> Result<()> {
        let mut socket = Self::enter(netns)?;
        host::apply(&mut socket, vec![links::bring_up_loopback()])
    }

    fn enter(netns: BorrowedFd<'_>) -> Result<Socket> {
        Socket::open(ROUTE, Some(netns)).context(|| "open a netlink socket in the pod's namespace")
    }

    /// Gives back what a pod has of the network; fine if that is nothing. Its link goes with its namespace: removing it
    /// by hand takes the kernel thirty times longer. Should the namespace live on, the link is removed when its address
    /// comes round again.
    ///
    /// # Errors
    /// When the kernel or the disk refuses; the lease then stands, and the call can be repeated.
    pub fn detach(&self, sandbox: &str) -> Result<()> {
        let mut state = self.state();
        if let Some(detached) = &mut state.detached {
            detached.insert(sandbox.to_owned());
        }
        state.release(&self.config, sandbox)
    }

    /// Brings leases and kernel in line with the pods that live, after a restart of the agent or of the machine: what dead
    /// ones had is given back; links and rules of live ones are made again where they are missing. To be called once,
    /// before the first attach.
    ///
    /// # Errors
    /// When the kernel or the disk refuses.
    pub fn restore(&self, live: &[Attached]) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        let detached = state.detached.take().unwrap_or_default();
        let live: Vec<&Attached> =
            live.iter().filter(|pod| !pod.addresses.is_empty() && !detached.contains(&pod.sandbox)).collect();
        let alive: BTreeSet<&str> = live.iter().map(|pod| pod.sandbox.as_str()).collect();
        let dead: Vec<String> = state
            .ledger
            .leases()
            .map(|lease| lease.sandbox.clone())
            .filter(|id| !alive.contains(id.as_str()))
            .collect();
        for sandbox in &dead {
            state.ledger.free(sandbox)?;
        }
        for pod in live {
            let lease =
                Lease { sandbox: pod.sandbox.clone(), addresses: pod.addresses.clone(), ports: pod.ports.clone() };
            let known = state.ledger.lease(&pod.sandbox).is_some();
            if !known && !state.ledger.adopt(lease)? {
                tracing::error!(sandbox = pod.sandbox, addresses = ?pod.addresses, "the address of a pod is another's");
            }
        }
        if state.ledger.is_empty() {
            host::remove(&self.config, &mut state.ledger)
        } else {
            state.host = Some(Host::ensure(&self.config, &mut state.ledger)?);
            Ok(())
        }
    }

    /// Takes bridge and table away and gives sysctls their old values, as if there had never been a pod.
    ///
    /// # Errors
    /// When pods are attached, or the kernel refuses.
    pub fn shutdown(&self) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        let pods = state.ledger.leases().count();
        if pods > 0 {
            return Err(Error::Busy { pods });
        }
        state.host = None;
        host::remove(&self.config, &mut state.ledger)
    }

    /// Who holds which host port in this instance.
    pub fn port_holders(&self) -> Vec<PortHolder> {
        self.state().ledger.holders()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one step, so a panic elsewhere has left it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Rules first, then the lease: an address is free only when nothing leads to it.
    fn release(&mut self, config: &Config, sandbox: &str) -> Result<()> {
        let Some(lease) = self.ledger.lease(sandbox).cloned() else { return Ok(()) };
        if !lease.ports.is_empty() {
            match &mut self.host {
                Some(host) => host.close_ports(config, &lease)?,
                None => host::close_ports(&mut host::open(NETFILTER)?, config, &lease)?,
            }
        }
        self.ledger.free(sandbox)
    }
}
