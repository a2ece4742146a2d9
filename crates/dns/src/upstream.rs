//! Passing a query on to the node's own name servers, as they stand in its `resolv.conf` at that moment.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const PORT: u16 = 53;
/// The longest that one server may take. A client asks again after 5 seconds (`resolv.conf(5)`).
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer over UDP that is taken.
const LARGEST_UDP: usize = 4096;

/// The servers of a `resolv.conf`, without `own`: asking ourselves would go round for ever.
pub(crate) fn servers(resolv_conf: &Path, own: &[IpAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            line.split_whitespace().collect::<Vec<_>>().get(..2).map(|w| (w[0].to_owned(), w[1].to_owned()))
        })
        .filter(|(word, _)| word == "nameserver")
        .filter_map(|(_, address)| address.parse::<IpAddr>().ok())
        .filter(|address| !own.contains(address))
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

/// The first answer that one of the servers gives.
pub(crate) async fn ask(query: &[u8], servers: &[SocketAddr], udp: bool) -> Option<Vec<u8>> {
    for server in servers {
        let asked = async { if udp { by_udp(query, *server).await } else { by_tcp(query, *server).await } };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server does not answer"),
            Err(_) => tracing::debug!(%server, "a name server does not answer in time"),
        }
    }
    None
}

/// From a socket of its own, connected: its random port and the query's number are what an answer must know.
async fn by_udp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LARGEST_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // An answer to another question may come late, or from somebody who guesses.
        if length >= 12 && buffer[..2] == query[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
