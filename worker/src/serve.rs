//! The serving half of the data port: peers and clients fetch from here what this worker holds.

mod connection;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bolthole_broker::handoff::auth::welcome;
use bolthole_broker::handoff::socket::{Listener, Socket};
use bolthole_broker::handoff::{ClusterSecret, HandoffKey};
use bolthole_broker::id::Incarnation;
use bolthole_broker::limits::{HANDOFF_CONNECTIONS_MAX, HANDOFF_HANDSHAKES_MAX};
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hold::Held;

/// How long nothing is accepted after the system refused to: out of file descriptors, mostly.
/// Doubles from the first to the second.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How the data port is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes any that is free.
    pub bind: SocketAddr,
    /// What peers must know. `None` only on the loopback interface.
    pub secret: Option<ClusterSecret>,
    /// Whose results are served.
    pub incarnation: Incarnation,
}

/// Why the data port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anyone on the network could fetch results.
    #[error(
        "refusing to serve results on {0} without a cluster secret: give all processes the same \
         secret, or bind to the loopback interface"
    )]
    Open(SocketAddr),
    /// The address cannot be listened on.
    #[error("failed to listen on {addr} for the data port: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What the data port has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServeStats {
    /// Connections being served now.
    pub connections: u64,
    /// Handshakes that failed.
    pub rejected: u64,
    /// Connections ended in their handshake to make room for others.
    pub evicted: u64,
    /// Results sent.
    pub sent: u64,
    /// Bytes of results sent.
    pub sent_bytes: u64,
    /// Results taken over from peers.
    pub received: u64,
}

/// A data port that is being served. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    held: Held,
    key: HandoffKey,
    incarnation: Incarnation,
    places: Arc<Semaphore>,
    draining: AtomicBool,
    stop: CancellationToken,
    rejected: AtomicU64,
    evicted: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
}

impl Server {
    /// Listens and serves what `held` holds.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(options: ServeOptions, held: Held) -> Result<Self, ServeError> {
        let ServeOptions { bind, secret, incarnation } = options;
        let key = HandoffKey::new(secret.as_ref());
        if !key.is_secret() && !is_loopback(bind.ip()) {
            return Err(ServeError::Open(bind));
        }
        let failed = |source| ServeError::Bind { addr: bind, source };
        let listener = Listener::bind(bind, incarnation).await.map_err(failed)?;
        let addr = listener.local_addr();
        let shared = Arc::new(Shared {
            held,
            key,
            incarnation,
            places: Arc::new(Semaphore::new(HANDOFF_CONNECTIONS_MAX)),
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            rejected: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        Ok(Self { addr, shared, tasks })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on takes no results over from peers: this worker is about to leave.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Figures for metrics.
    pub fn stats(&self) -> ServeStats {
        let shared = &self.shared;
        let free = shared.places.available_permits();
        ServeStats {
            connections: HANDOFF_CONNECTIONS_MAX.saturating_sub(free) as u64,
            rejected: shared.rejected.load(Ordering::Relaxed),
            evicted: shared.evicted.load(Ordering::Relaxed),
            sent: shared.sent.load(Ordering::Relaxed),
            sent_bytes: shared.sent_bytes.load(Ordering::Relaxed),
            received: shared.received.load(Ordering::Relaxed),
        }
    }

    /// Closes the port and every connection.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    // `::ffff:127.0.0.1` is loopback as well.
    ip.to_canonical().is_loopback()
}

/// Accepts connections until the server stops. Strangers cannot keep others out: a connection
/// beyond the limit ends the one that has been in its handshake longest.
async fn accept(listener: Listener, shared: Arc<Shared>, tasks: TaskTracker) {
    let mut greeting: VecDeque<Weak<Notify>> = VecDeque::new();
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(socket) => {
                pause = ACCEPT_PAUSE.0;
                greeting.retain(|evict| evict.strong_count() > 0);
                if greeting.len() >= HANDOFF_HANDSHAKES_MAX
                    && let Some(oldest) = greeting.pop_front().and_then(|evict| evict.upgrade())
                {
                    oldest.notify_one();
                }
                let evict = Arc::new(Notify::new());
                greeting.push_back(Arc::downgrade(&evict));
                tasks.spawn(serve(socket, Arc::clone(&shared), evict));
            }
            Err(error) => {
                shared.held.refused("a connection to the data port", &error);
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSE.1),
                }
            }
        }
    }
}

/// Serves one connection from its first byte to its last.
async fn serve(mut socket: Socket, shared: Arc<Shared>, evict: Arc<Notify>) {
    let admit = || Arc::clone(&shared.places).try_acquire_owned().ok();
    let greeted = tokio::select! {
        () = shared.stop.cancelled() => return,
        () = evict.notified() => {
            shared.evicted.fetch_add(1, Ordering::Relaxed);
            return;
        }
        greeted = welcome(&mut socket, &shared.key, shared.incarnation, admit) => greeted,
    };
    drop(evict);
    let _place = match greeted {
        Ok(place) => place,
        Err(error) => {
            shared.rejected.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "rejected a connection to the data port");
            return;
        }
    };
    let ended = tokio::select! {
        () = shared.stop.cancelled() => return,
        ended = connection::serve(socket, &shared) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the data port ended");
    }
}

#[cfg(test)]
mod tests;
