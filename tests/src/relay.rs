//! A TCP relay that counts what goes through it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Stands before a server on loopback, for the life of this value.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    bytes: Arc<AtomicU64>,
    /// Ends with this value.
    _accepting: JoinSet<()>,
}

impl Relay {
    /// Takes connections to a free port and makes one each to `port`.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn before(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let bytes = Arc::new(AtomicU64::new(0));
        let mut accepting = JoinSet::new();
        let own = listener.local_addr()?.port();
        accepting.spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), {
            Arc::clone(&bytes)
        }));
        Ok(Self { port: own, bytes, _accepting: accepting })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that went through so far, both ways together.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, bytes: Arc<AtomicU64>) {
    let mut pumps = JoinSet::new();
    while let Ok((inner, _)) = listener.accept().await {
        let Ok(outer) = TcpStream::connect(server).await else { continue };
        let (inner_read, inner_write) = inner.into_split();
        let (outer_read, outer_write) = outer.into_split();
        pumps.spawn(pump(inner_read, outer_write, Arc::clone(&bytes)));
        pumps.spawn(pump(outer_read, inner_write, Arc::clone(&bytes)));
        while pumps.try_join_next().is_some() {}
    }
}

/// Hands on bytes until one side is closed; dropping the halves closes the other.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bytes: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        bytes.fetch_add(count as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
