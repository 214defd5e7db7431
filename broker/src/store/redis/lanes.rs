//! Connections to one server: a few long-lived *lanes* which all callers share, and one connection
//! of its own for each reader that blocks.
//!
//! A run keeps to one lane, so that its requests stay in order. A lane that breaks is made anew by
//! the next request on it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleResult};
use deadpool_redis::{Connection, Manager, Pool, Runtime};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo, Pipeline, RedisError, Value};
use tokio::sync::Mutex;

use super::super::Error;
use super::library::{self, Found};
use super::trouble::Trouble;
use crate::limits;

/// Lanes of one process: two connections keep the server's event loop busy, more of them only cost.
const LANES: usize = 4;
/// Readers that block at the same time; further ones wait for a place.
const BLOCKING_MAX: usize = 256;

/// A connection that was in use a moment ago is taken to be alive; should it not be, whoever waits on
/// it looks again.
const TRUSTED: Duration = Duration::from_secs(10);

/// All connections to one server.
pub(super) struct Lanes {
    address: String,
    shared: [Mutex<Lane>; LANES],
    pool: Pool,
    blocking: managed::Pool<Readers>,
}

/// Makes the connections of readers. Unlike the pool's own, asks one that was in use just now not
/// whether it still is there: that would be a round trip for each event that is waited for.
struct Readers(Manager);

impl managed::Manager for Readers {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        self.0.create().await
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &Metrics,
    ) -> RecycleResult<RedisError> {
        if metrics.last_used() < TRUSTED {
            return Ok(());
        }
        self.0.recycle(connection, metrics).await
    }
}

/// One lane; the number tells a broken connection from the one that has replaced it.
#[derive(Default)]
struct Lane {
    connection: Option<Connection>,
    number: u64,
}

/// What is sent on a lane.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

impl Request<'_> {
    async fn send(self, mut lane: MultiplexedConnection) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::One(command) => Ok(vec![command.query_async::<Value>(&mut lane).await?]),
            Self::Many(commands) => commands.query_async::<Vec<Value>>(&mut lane).await,
        }
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Lanes {
    /// Connections to `address`, made when they are needed.
    pub(super) fn new<I: IntoConnectionInfo + Clone>(
        info: &I,
        address: String,
    ) -> Result<Self, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limits::STORE_CONNECT))
            .set_response_timeout(Some(limits::STORE_ANSWER));
        let unsuitable = |reason: String| Error::Unsuitable { address: address.clone(), reason };
        let manager = |config: AsyncConnectionConfig| {
            Manager::new_with_config(info.clone(), config)
                .map_err(|error| unsuitable(error.to_string()))
        };
        let readers = Readers(manager(config.clone().set_response_timeout(None))?);
        let blocking = bounded(managed::Pool::builder(readers), BLOCKING_MAX)
            .map_err(|error| unsuitable(error.to_string()))?;
        let pool = bounded(Pool::builder(manager(config)?), LANES)
            .map_err(|error| unsuitable(error.to_string()))?;
        Ok(Self { address, shared: Default::default(), pool, blocking })
    }

    /// `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request once on one of the lanes. Functions that are missing are loaded; the request
    /// is to be sent again then.
    pub(super) async fn attempt(
        &self,
        lane: usize,
        request: Request<'_>,
    ) -> Result<Vec<Value>, Trouble> {
        let lane = &self.shared[lane % LANES];
        match self.once(lane, request).await {
            Err(Trouble::NoFunction) => {
                self.load(lane).await.map_err(Trouble::Final)?;
                Err(Trouble::NotNow("the functions had to be loaded again".to_owned()))
            }
            other => other,
        }
    }

    async fn once(&self, lane: &Mutex<Lane>, request: Request<'_>) -> Result<Vec<Value>, Trouble> {
        let (connection, number) = self.enter(lane).await?;
        match request.send(connection).await {
            Ok(value) => Ok(value),
            Err(error) => {
                let trouble = self.judge(&error);
                let broken =
                    matches!(trouble, Trouble::Lost(_)) || error.code() == Some("READONLY");
                if broken {
                    leave(lane, number).await;
                }
                Err(trouble)
            }
        }
    }

    /// The lane's connection, made anew when there is none.
    async fn enter(&self, lane: &Mutex<Lane>) -> Result<(MultiplexedConnection, u64), Trouble> {
        let mut lane = lane.lock().await;
        if let Some(connection) = &lane.connection {
            return Ok((MultiplexedConnection::clone(connection), lane.number));
        }
        let connection = match self.pool.get().await {
            Ok(connection) => connection,
            Err(deadpool_redis::PoolError::Backend(error)) => {
                return Err(match self.judge(&error) {
                    Trouble::Lost(reason) => Trouble::Unsent(reason),
                    other => other,
                });
            }
            Err(error) => return Err(Trouble::Unsent(error.to_string())),
        };
        let own = MultiplexedConnection::clone(&connection);
        lane.connection = Some(connection);
        lane.number += 1;
        Ok((own, lane.number))
    }

    fn judge(&self, error: &RedisError) -> Trouble {
        Trouble::judge(&self.address, error)
    }

    /// Loads the library on a lane, for a request that missed one of its functions and comes back
    /// here until its deadline.
    async fn load(&self, lane: &Mutex<Lane>) -> Result<(), Error> {
        let list = self.once(lane, Request::One(&library::list())).await;
        let list = match list.map(|answers| answers.into_iter().next()) {
            Ok(list) => list.unwrap_or(Value::Nil),
            Err(Trouble::Final(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        if !self.is_replaceable(&list)? {
            return Ok(());
        }
        match self.once(lane, Request::One(&library::load())).await {
            Err(Trouble::Final(error)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether this build's functions are to be loaded in place of those in the server's list.
    pub(super) fn is_replaceable(&self, list: &Value) -> Result<bool, Error> {
        match Found::judge(list) {
            Found::Usable => Ok(false),
            Found::Replaceable => Ok(true),
            Found::Later(revision, lacking) => Err(Error::Unsuitable {
                address: self.address.clone(),
                reason: format!(
                    "its functions are of a later build (revision {revision}) and lack {lacking}; \
                     stop the processes of one of the two builds, or give them a server each"
                ),
            }),
        }
    }

    /// Sends a command that blocks for `patience` at the most, on a connection of its own. `None`
    /// when the connection broke: whoever waits looks again.
    pub(super) async fn block(
        &self,
        command: &Cmd,
        patience: Duration,
    ) -> Result<Option<Value>, Error> {
        let connection = match self.blocking.get().await {
            Ok(connection) => connection,
            Err(error) => {
                let (address, reason) = (self.address.clone(), error.to_string());
                return Err(Error::Unreachable { address, reason });
            }
        };
        let mut own = Own(Some(connection));
        let Some(connection) = own.0.as_deref_mut() else { return Ok(None) };
        let answer = command.query_async::<Value>(connection);
        match tokio::time::timeout(patience + limits::STORE_ANSWER, answer).await {
            Ok(Ok(value)) => {
                // Answered: the next reader may have it.
                drop(own.0.take());
                Ok(Some(value))
            }
            Ok(Err(error)) => match self.judge(&error) {
                Trouble::Final(error) => Err(error),
                _ => Ok(None),
            },
            Err(_) => Ok(None),
        }
    }
}

/// A pool of at most so many connections, no step of which takes for ever.
fn bounded<M: managed::Manager, W: From<managed::Object<M>>>(
    builder: managed::PoolBuilder<M, W>,
    size: usize,
) -> Result<managed::Pool<M, W>, managed::BuildError> {
    builder
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(limits::STORE_CONNECT))
        .recycle_timeout(Some(limits::STORE_CONNECT))
        .wait_timeout(Some(limits::STORE_ANSWER))
        .build()
}

/// A connection that leaves its pool for ever unless it was given back: someone else's answer may
/// still be under way on it.
struct Own(Option<managed::Object<Readers>>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(managed::Object::take(connection));
        }
    }
}

async fn leave(lane: &Mutex<Lane>, number: u64) {
    let mut lane = lane.lock().await;
    if lane.number == number
        && let Some(connection) = lane.connection.take()
    {
        drop(Connection::take(connection));
    }
}

/// The lane to which a key keeps.
pub(super) fn lane_of(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
}
