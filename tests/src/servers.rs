//! Private servers for tests: nothing here touches a server it did not start.
//!
//! - [`RedisServer`], [`RabbitServer`]: one server each, on loopback, with a random password, its
//!   data in a temporary folder; it can be stopped, killed, restarted on the same data, wiped.
//! - [`RedisCluster`], [`RabbitCluster`]: three servers that are one store, or one broker.
//! - [`tls`]: a pair that speaks TLS, and its certificate.
//! - [`shared`]: one pair for all tests of a process, told apart by [`namespace`].
//! - `aof`: where the commands of Redis's append-only file begin and end.
//! - `group`: the process group that holds a server's processes and dies with this process, even
//!   when this process is killed.
//! - `port`: loopback ports which nobody else is given while the server is down.
//!
//! Calls block until the server does what was asked or a deadline has passed.

mod aof;
mod contents;
pub(crate) mod group;
pub(crate) mod port;
mod rabbit;
mod rabbit_cluster;
mod redis;
mod redis_cluster;
pub mod tls;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

pub use contents::{Contents, Reply};
pub use rabbit::RabbitServer;
pub use rabbit_cluster::RabbitCluster;
pub use redis::{RedisOptions, RedisServer};
pub use redis_cluster::{MASTERS, RedisCluster};

/// How long a server may take to start or to stop. RabbitMQ needs about 5 s on two idle cores;
/// the rest is room for machines that are busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// A RabbitMQ and a Redis, both up.
#[derive(Debug)]
pub struct Pair {
    /// The message broker.
    pub rabbit: RabbitServer,
    /// The store, with its append-only file on, as in production.
    pub redis: RedisServer,
}

impl Pair {
    /// Starts both servers at the same time.
    ///
    /// # Errors
    /// When one of them is not installed or does not come up; the message ends with its log.
    pub fn start() -> anyhow::Result<Self> {
        let rabbit = std::thread::spawn(RabbitServer::start);
        let redis = RedisServer::start(&RedisOptions { append_only: true, ..Default::default() });
        let rabbit = rabbit.join().map_err(|_| anyhow::anyhow!("starting RabbitMQ panicked"))?;
        Ok(Self { rabbit: rabbit?, redis: redis? })
    }
}

/// The pair that all tests of this process share, started by the first who asks.
///
/// It is only lent, so no test can stop it under another; a test which does harm starts its own
/// servers. It ends with the process.
///
/// # Panics
/// When the servers do not come up: no test that needs them can say anything then.
pub fn shared() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| match Pair::start() {
        Ok(pair) => pair,
        Err(error) => panic!("no servers for the tests: {error:#}"),
    })
}

/// A Redis that all tests of this process share, for those that need no RabbitMQ.
///
/// # Panics
/// When the server does not come up.
pub fn shared_redis() -> &'static RedisServer {
    static REDIS: OnceLock<RedisServer> = OnceLock::new();
    let options = RedisOptions { append_only: true, ..Default::default() };
    REDIS.get_or_init(|| match RedisServer::start(&options) {
        Ok(server) => server,
        Err(error) => panic!("no Redis for the tests: {error:#}"),
    })
}

/// A RabbitMQ that all tests of this process share, for those that have another store.
///
/// # Panics
/// When the server does not come up.
pub fn shared_rabbit() -> &'static RabbitServer {
    static RABBIT: OnceLock<RabbitServer> = OnceLock::new();
    RABBIT.get_or_init(|| match RabbitServer::start() {
        Ok(server) => server,
        Err(error) => panic!("no RabbitMQ for the tests: {error:#}"),
    })
}

/// A Redis Cluster that all tests of this process share.
///
/// # Panics
/// When it does not come up.
pub fn shared_redis_cluster() -> &'static RedisCluster {
    static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();
    CLUSTER.get_or_init(|| match RedisCluster::start() {
        Ok(cluster) => cluster,
        Err(error) => panic!("no Redis Cluster for the tests: {error:#}"),
    })
}

/// A namespace no other test has: one letter and 16 hexadecimal digits.
pub fn namespace() -> String {
    format!("t{}", random_hex(8))
}

/// `bytes` random bytes as lower-case hexadecimal digits.
///
/// # Panics
/// When the operating system has no randomness to give.
fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    if let Err(error) = getrandom::fill(&mut buffer) {
        panic!("no randomness for a password: {error}");
    }
    buffer.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Looks every [`POLL`] until `ready` says so, for [`PATIENCE`] at most.
pub(crate) fn wait_until(
    what: &str,
    mut ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if ready().with_context(|| format!("while waiting until {what}"))? {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        #[expect(clippy::disallowed_methods, reason = "the pause of a poll that has a deadline")]
        std::thread::sleep(POLL);
    }
}
