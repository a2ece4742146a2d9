//! The server: sockets, and the table as it stands in its file.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::{Reply, answer, server_failure};
use crate::table::{Index, Table};
use crate::upstream;

/// Queries that may be on their way to other servers; one more is not taken, and its client asks again.
const FORWARDED: usize = 512;
/// Connections that may be open. One more waits.
const CONNECTIONS: usize = 128;
/// The longest silence on a connection (RFC 7766).
const SILENCE: Duration = Duration::from_secs(10);
/// The largest query over UDP.
const LARGEST_QUERY: usize = 4096;

/// What a server works with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file of the table.
    pub table: PathBuf,
    /// The `resolv.conf` whose servers are asked for what is not ours.
    pub upstream: PathBuf,
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or is not this machine's.
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// A socket of ours broke.
    #[error("read from a socket")]
    Socket(#[source] io::Error),
}

/// Sockets that listen.
#[derive(Debug)]
pub struct Listeners {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

/// Listens on an address of the network namespace that the calling thread is in.
///
/// # Errors
/// When the address is taken, or is nobody's here.
pub fn listen(address: SocketAddr) -> Result<Listeners, Error> {
    let fail = |error| Error::Listen(address, error);
    let udp = std::net::UdpSocket::bind(address).map_err(fail)?;
    let at = udp.local_addr().map_err(fail)?;
    let tcp = std::net::TcpListener::bind(at).map_err(fail)?;
    udp.set_nonblocking(true).map_err(fail)?;
    tcp.set_nonblocking(true).map_err(fail)?;
    Ok(Listeners { udp, tcp })
}

impl Listeners {
    /// Where they listen.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// Answers for ever.
///
/// # Errors
/// When a socket breaks.
pub async fn serve(listeners: Vec<Listeners>, options: Options) -> Result<(), Error> {
    let own = listeners.iter().filter_map(|l| l.address().ok()).map(|address| address.ip()).collect();
    let names = Arc::new(Names { options, own, loaded: Mutex::default(), forwarded: Semaphore::new(FORWARDED) });
    let mut tasks = tokio::task::JoinSet::new();
    for Listeners { udp, tcp } in listeners {
        let udp = UdpSocket::from_std(udp).map_err(Error::Socket)?;
        let tcp = TcpListener::from_std(tcp).map_err(Error::Socket)?;
        tasks.spawn(datagrams(Arc::new(udp), Arc::clone(&names)));
        tasks.spawn(connections(tcp, Arc::clone(&names)));
    }
    match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Error::Socket(io::Error::other(error))),
        None => Ok(()),
    }
}

/// What every query needs.
struct Names {
    options: Options,
    own: Vec<IpAddr>,
    loaded: Mutex<Loaded>,
    forwarded: Semaphore,
}

/// The table that was read last, and which file that was: inode, and when it was written.
#[derive(Default)]
struct Loaded {
    index: Arc<Index>,
    file: Option<(u64, i64, i64)>,
}

impl Names {
    /// The table as its file is now. One that cannot be read leaves the last one in force.
    fn index(&self) -> Arc<Index> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let file = identity(&self.options.table);
        if file.is_some() && file != loaded.file {
            match Table::read(&self.options.table) {
                Ok(table) => {
                    loaded.index = Arc::new(Index::new(table));
                    loaded.file = file;
                }
                // Never a table of ours: not read again before it changes.
                Err(error) if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData) => {
                    tracing::warn!(%error, "read the table of names");
                    loaded.file = file;
                }
                // It may pass, as when no descriptor is left.
                Err(error) => tracing::debug!(%error, "read the table of names"),
            }
        }
        Arc::clone(&loaded.index)
    }

    async fn respond(&self, query: &[u8], client: IpAddr, udp: bool) -> Option<Vec<u8>> {
        match answer(query, client, &self.index(), udp) {
            Reply::Answer(answer) => Some(answer),
            Reply::Ignore => None,
            Reply::Forward => {
                let _turn = self.forwarded.try_acquire().ok()?;
                let servers = upstream::servers(&self.options.upstream, &self.own);
                match upstream::ask(query, &servers, udp).await {
                    Some(answer) => Some(answer),
                    None => server_failure(query),
                }
            }
        }
    }
}

fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

async fn datagrams(socket: Arc<UdpSocket>, names: Arc<Names>) -> Result<(), Error> {
    let mut buffer = vec![0; LARGEST_QUERY];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // A client that is gone already (ICMP) is no fault of the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(Error::Socket(error)),
        };
        let (socket, names, query) = (Arc::clone(&socket), Arc::clone(&names), buffer[..length].to_vec());
        // Our own names are answered at once; only what is passed on waits, and that is bounded.
        tokio::spawn(async move {
            if let Some(answer) = names.respond(&query, client.ip(), true).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!(%client, %error, "an answer cannot be sent");
            }
        });
    }
}

async fn connections(listener: TcpListener, names: Arc<Names>) -> Result<(), Error> {
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return Ok(()) };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client is gone: neither lasts.
                tracing::debug!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let names = Arc::clone(&names);
        tokio::spawn(async move {
            if let Err(error) = conversation(stream, client.ip(), &names).await {
                tracing::debug!(%client, %error, "a connection ends");
            }
            drop(turn);
        });
    }
}

/// Queries one after the other, each with its length before it.
async fn conversation(mut stream: TcpStream, client: IpAddr, names: &Names) -> io::Result<()> {
    loop {
        let query = timeout(SILENCE, async {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        });
        let query = match query.await {
            Ok(Ok(query)) => query,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let Some(answer) = names.respond(&query, client, false).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        timeout(SILENCE, stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())).await??;
    }
}

#[cfg(test)]
mod tests;
