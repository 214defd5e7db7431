//! What stands between the socket and the client library: properties of messages that are large are
//! taken out before the library reads them.
//!
//! The library reads arrays and tables inside properties by calling itself, without a limit. One
//! message can nest 26,000 of them, more than any thread's stack holds: it would end the process of
//! every worker it is delivered to, one after the other. The broker sends properties as they were
//! published, whatever size of frames was agreed on, so nothing but the bytes themselves can tell.
//! Of what arrives here only the body counts, and it is judged by who reads it.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, TLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::strain::Strainer;

/// Bytes that are read at a time: some small messages, or a part of a large one.
const READ_BYTES: usize = 32 << 10;

/// A connection whose library sees no large properties.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let below = Runtime::tokio_current();
    let guarding = Guarding(Tokio::current());
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), guarding));
    let connect = async move |uri: AMQPUri, _: Runtime<_>| {
        let stream = uri.connect_with_config_async(TLSConfig::default(), &below).await?;
        Ok(AsyncTcpStream::Plain(Guarded::new(stream)))
    };
    Connection::connector(uri, runtime, connect, properties).await
}

/// A connection of the library's own kind, with or without TLS.
type Unguarded = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// The library's reactor, with [`Guarded`] connections.
#[derive(Debug, Clone)]
struct Guarding(Tokio);

impl Reactor for Guarding {
    type TcpStream = Guarded<Unguarded>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Nobody calls it: connections are all that the library wants.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Guarded::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}

/// A connection of which is read what a [`Strainer`] lets pass. What is written passes as it is.
struct Guarded<S> {
    inner: S,
    read: Box<[u8]>,
    strainer: Strainer,
    /// What has passed, and how much of it has been taken.
    passed: Vec<u8>,
    taken: usize,
}

impl<S> Guarded<S> {
    fn new(inner: S) -> Self {
        let read = vec![0; READ_BYTES].into_boxed_slice();
        Self { inner, read, strainer: Strainer::default(), passed: Vec::new(), taken: 0 }
    }
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            let rest = &this.passed[this.taken..];
            if !rest.is_empty() {
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                this.taken += count;
                return Poll::Ready(Ok(count));
            }
            let count = ready!(Pin::new(&mut this.inner).poll_read(context, &mut this.read))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.passed.clear();
            this.taken = 0;
            this.strainer.strain(&this.read[..count], &mut this.passed);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}
