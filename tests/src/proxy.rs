//! A TCP proxy that makes the network fail: between any two parties, at run time, each way for
//! itself.
//!
//! What goes through is held back rather than dropped while a way is a black hole: TCP repeats what
//! a network loses, so a party sees silence, and all of it when the network is well again. Faults
//! that are asked for by a number of bytes count from the call, over all connections, and happen
//! once; [`Proxy::faults`] says which of them have.

mod pipe;
#[cfg(test)]
mod tests;
mod way;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::way::Lane;
use crate::servers::port::Port;

/// The pause before a port is listened on again that could not be.
const RETRY: Duration = Duration::from_millis(20);

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From who connects to the server.
    Up,
    /// From the server to who has connected.
    Down,
}

impl Way {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];
}

/// How often something has happened to the connections of a proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Connections that were reset by the proxy.
    pub resets: u64,
    /// Bytes that were flipped.
    pub flips: u64,
    /// Ways of connections that were closed by the proxy.
    pub half_closes: u64,
}

/// Stands before a server on loopback, for the life of this value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Whether connections are wanted; whether they are taken.
    open: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    /// Ends with this value.
    _accepting: JoinSet<()>,
}

/// What the connections of a proxy share.
#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    up: Lane,
    down: Lane,
    connections: AtomicU64,
    resets: AtomicU64,
    /// Counts the calls of [`Proxy::reset`].
    reset: watch::Sender<u64>,
}

impl Proxy {
    /// Takes connections to a free port and makes one each to `port`.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn before(port: u16) -> anyhow::Result<Self> {
        let own = Port::reserve()?;
        let number = own.number();
        let listener = listen(number).await.context("the proxy cannot listen")?;
        let shared = Arc::new(Shared {
            target: AtomicU16::new(port),
            up: Lane::default(),
            down: Lane::default(),
            connections: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            reset: watch::Sender::new(0),
        });
        let (open, wanted) = watch::channel(true);
        let (tell, listening) = watch::channel(true);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(own, listener, Arc::clone(&shared), wanted, tell));
        Ok(Self { port: number, shared, open, listening, _accepting: accepting })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL or address of the server, as it reads when the server is reached through here.
    pub fn through(&self, url: &str) -> String {
        let target = self.shared.target.load(Ordering::Relaxed);
        url.replace(&format!(":{target}"), &format!(":{}", self.port))
    }

    /// Makes later connections to another port of this machine.
    pub fn aim(&self, port: u16) {
        self.shared.target.store(port, Ordering::Relaxed);
    }

    /// Every byte arrives so much later.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.lane(way).rules.send_modify(|rules| rules.delay = delay);
    }

    /// At most so many bytes pass in a second, over all connections.
    pub fn throttle(&self, way: Way, bytes_per_second: Option<NonZeroU64>) {
        self.lane(way).rules.send_modify(|rules| rules.rate = bytes_per_second);
    }

    /// Nothing passes, and nobody is told; until it is switched off, when all that was sent passes.
    /// While both ways are, no connection is made either, though the system accepts them.
    pub fn blackhole(&self, way: Way, on: bool) {
        self.lane(way).rules.send_modify(|rules| rules.blackhole = on);
    }

    /// The connection on which the byte after the next `bytes` would pass is reset before it does,
    /// both ways.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.lane(way).once().cut = Some(bytes);
    }

    /// One bit of the `nth` byte from now on, counted from zero, passes flipped.
    pub fn flip(&self, way: Way, nth: u64) {
        self.lane(way).once().flip = Some(nth);
    }

    /// Closes this way of the connections there are, as their sender would; what it sends later is
    /// swallowed.
    pub fn half_close(&self, way: Way) {
        self.lane(way).rules.send_modify(|rules| rules.half_closes += 1);
    }

    /// Resets the connections there are.
    pub fn reset(&self) {
        self.shared.reset.send_modify(|count| *count += 1);
    }

    /// Refuses new connections, or takes them again. Returns once it is so.
    pub async fn refuse(&self, on: bool) {
        self.open.send_replace(!on);
        // It fails when the runtime is going down, and then nobody connects.
        becomes(&mut self.listening.clone(), !on).await;
    }

    /// The network is well again: no delay, no limit, no black hole, nothing refused, and faults
    /// that have not happened yet do not.
    pub async fn heal(&self) {
        for way in Way::BOTH {
            self.lane(way).heal();
        }
        self.refuse(false).await;
    }

    /// Bytes that were passed on so far.
    pub fn bytes(&self, way: Way) -> u64 {
        self.lane(way).bytes.load(Ordering::Relaxed)
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// What has happened so far.
    pub fn faults(&self) -> Faults {
        let sum = |of: fn(&Lane) -> &AtomicU64| {
            Way::BOTH.iter().map(|way| of(self.lane(*way)).load(Ordering::Relaxed)).sum()
        };
        Faults {
            resets: self.shared.resets.load(Ordering::Relaxed),
            flips: sum(|lane| &lane.flips),
            half_closes: sum(|lane| &lane.half_closes),
        }
    }

    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.shared.up,
            Way::Down => &self.shared.down,
        }
    }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Waits until it is `value`; false when it never will be.
async fn becomes(watched: &mut watch::Receiver<bool>, value: bool) -> bool {
    watched.wait_for(|now| *now == value).await.is_ok()
}

/// Takes connections while they are wanted.
async fn accept(
    own: Port,
    listener: TcpListener,
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<bool>,
    listening: watch::Sender<bool>,
) {
    let mut carried = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        if let Some(listener) = &listener {
            tokio::select! {
                known = becomes(&mut wanted, false) => if !known { return },
                Some(_) = carried.join_next() => continue,
                accepted = listener.accept() => {
                    let Ok((inner, _)) = accepted else {
                        sleep(RETRY).await;
                        continue;
                    };
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    carried.spawn(carry(inner, Arc::clone(&shared)));
                    continue;
                }
            }
        }
        listener = None;
        listening.send_replace(false);
        tokio::select! {
            known = becomes(&mut wanted, true) => if !known { return },
            Some(_) = carried.join_next() => continue,
        }
        match listen(own.number()).await {
            Ok(again) => {
                listener = Some(again);
                listening.send_replace(true);
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// The life of a connection.
async fn carry(mut inner: TcpStream, shared: Arc<Shared>) {
    let mut reset = shared.reset.subscribe();
    way::some_passage(&shared.up, &shared.down).await;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, shared.target.load(Ordering::Relaxed)));
    let Ok(mut outer) = TcpStream::connect(target).await else {
        let _ = inner.set_zero_linger();
        return;
    };
    // What the parties send at once passes at once.
    let _ = (inner.set_nodelay(true), outer.set_nodelay(true));
    let ended = {
        let ((inner_read, inner_write), (outer_read, outer_write)) = (inner.split(), outer.split());
        let up = pipe::run(inner_read, outer_write, &shared.up);
        let down = pipe::run(outer_read, inner_write, &shared.down);
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.map(drop),
            _ = reset.changed() => Err(pipe::Broken::Reset),
        }
    };
    if let Err(broken) = ended {
        if broken == pipe::Broken::Reset {
            shared.resets.fetch_add(1, Ordering::Relaxed);
        }
        let _ = (inner.set_zero_linger(), outer.set_zero_linger());
    }
}
