//! The sockets between data ports: TCP, and between processes of one machine a Unix socket, which
//! moves large results faster, because nothing is cut into segments and acknowledged.
//!
//! The local one is found by its name in Linux's abstract namespace: there is no file to leave
//! behind, and it reaches as far as the loopback interface does, no further than this network
//! namespace. The handshake is the same. The name has the port in it, so whoever advertises another
//! one, of a proxy say, is reached through that.

use std::future::pending;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::fetch::Peer;
use crate::id::Incarnation;
use crate::limits::HANDOFF_CONNECT;

/// A connection.
pub type Socket = Either<TcpStream, UnixStream>;
/// What of it is read.
pub type ReadHalf = Either<tcp::OwnedReadHalf, unix::OwnedReadHalf>;
/// What of it is written.
pub type WriteHalf = Either<tcp::OwnedWriteHalf, unix::OwnedWriteHalf>;

/// Whether the peer may be on another machine.
pub fn is_remote(socket: &Socket) -> bool {
    matches!(socket, Either::Left(_))
}

/// The two halves of a connection, each to be used by itself.
pub fn split(socket: Socket) -> (ReadHalf, WriteHalf) {
    match socket {
        Either::Left(tcp) => {
            let (read, write) = tcp.into_split();
            (Either::Left(read), Either::Left(write))
        }
        Either::Right(local) => {
            let (read, write) = local.into_split();
            (Either::Right(read), Either::Right(write))
        }
    }
}

/// Where connections come in.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    addr: SocketAddr,
    /// There is none where the system knows no abstract names.
    local: Option<UnixListener>,
}

impl Listener {
    /// Listens on a TCP port, and for processes of this machine under its name.
    ///
    /// # Errors
    /// What the system says of the TCP port.
    pub async fn bind(addr: SocketAddr, incarnation: Incarnation) -> io::Result<Self> {
        let tcp = TcpListener::bind(addr).await?;
        let addr = tcp.local_addr()?;
        let local = UnixListener::bind(name(incarnation, addr.port()))
            .inspect_err(|error| tracing::debug!(%error, "no local socket for the data port"))
            .ok();
        Ok(Self { tcp, addr, local })
    }

    /// The TCP port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection. Loses none when dropped.
    ///
    /// # Errors
    /// What the system says: out of file descriptors, mostly.
    pub async fn accept(&self) -> io::Result<Socket> {
        let local = async {
            match &self.local {
                Some(local) => local.accept().await,
                None => pending().await,
            }
        };
        tokio::select! {
            accepted = self.tcp.accept() => {
                let (stream, _) = accepted?;
                // A connection that has failed already says so when it is read.
                let _ = stream.set_nodelay(true);
                Ok(Either::Left(stream))
            }
            accepted = local => accepted.map(|(stream, _)| Either::Right(stream)),
        }
    }
}

/// Connects to a peer: locally if it is on this machine, by TCP otherwise.
///
/// # Errors
/// What the system says of the TCP connection.
pub(super) async fn connect(peer: &Peer) -> io::Result<Socket> {
    let port = peer.addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    if let Some(port) = port
        // It answers at once: on another machine there is no such name.
        && let local = UnixStream::connect(name(peer.incarnation, port))
        && let Ok(Ok(local)) = timeout(HANDOFF_CONNECT, local).await
    {
        return Ok(Either::Right(local));
    }
    let connected = timeout(HANDOFF_CONNECT, TcpStream::connect(&peer.addr)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(Either::Left(stream))
}

/// An abstract name: one that begins with a zero byte.
fn name(incarnation: Incarnation, port: u16) -> String {
    format!("\0bolthole/{incarnation}/{port}")
}
