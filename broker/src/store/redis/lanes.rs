//! Connections to the server: a few long-lived *lanes* which all callers share, and one connection
//! of its own for each reader that blocks.
//!
//! A run keeps to one lane, so that its requests stay in order. A lane that breaks is made anew by
//! the next request on it. Every request may be repeated, so one whose answer is lost is sent again
//! until its deadline.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Connection, Manager, Pool, Runtime};
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo, Pipeline, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Error;
use super::library::{self, Found};
use crate::limits;

/// Lanes of one process: two connections keep the server's event loop busy, more of them only cost.
const LANES: usize = 4;
/// Readers that block at the same time; further ones wait for a place.
const BLOCKING_MAX: usize = 256;
/// The first pause before a request is repeated, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// All connections to one server.
pub(super) struct Lanes {
    address: String,
    shared: [Mutex<Lane>; LANES],
    pool: Pool,
    blocking: Pool,
}

/// One lane; the number tells a broken connection from the one that has replaced it.
#[derive(Default)]
struct Lane {
    connection: Option<Connection>,
    number: u64,
}

/// What is sent on a lane.
#[derive(Clone, Copy)]
enum Request<'a> {
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

/// What went wrong with one attempt.
enum Trouble {
    /// Nothing was sent.
    Unsent(String),
    /// It was sent and not answered.
    Lost(String),
    /// The server cannot take it now.
    NotNow(String),
    /// The library is gone.
    NoFunction,
    /// Repeating does not help.
    Final(Error),
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
        let pool = |config: AsyncConnectionConfig, size| {
            let manager = Manager::new_with_config(info.clone(), config)
                .map_err(|error| unsuitable(error.to_string()))?;
            Pool::builder(manager)
                .max_size(size)
                .runtime(Runtime::Tokio1)
                .create_timeout(Some(limits::STORE_CONNECT))
                .recycle_timeout(Some(limits::STORE_CONNECT))
                .wait_timeout(Some(limits::STORE_ANSWER))
                .build()
                .map_err(|error| unsuitable(error.to_string()))
        };
        let blocking = pool(config.clone().set_response_timeout(None), BLOCKING_MAX)?;
        let pool = pool(config, LANES)?;
        Ok(Self { address, shared: Default::default(), pool, blocking })
    }

    /// `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a command on the lane of `key` until it is answered.
    pub(super) async fn ask(&self, key: &impl Hash, command: &Cmd) -> Result<Value, Error> {
        self.ask_by(key, command, Instant::now() + limits::STORE_DEADLINE).await
    }

    /// The same with a deadline.
    pub(super) async fn ask_by(
        &self,
        key: &impl Hash,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, Error> {
        let answers = self.repeat(lane_of(key), deadline, Request::One(command)).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    /// Sends several commands at once until all of them are answered.
    pub(super) async fn ask_all(
        &self,
        key: &impl Hash,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, Error> {
        let deadline = Instant::now() + limits::STORE_DEADLINE;
        self.repeat(lane_of(key), deadline, Request::Many(commands)).await
    }

    /// Boxed: every operation of the store ends here, and its callers' futures stay small.
    fn repeat<'a>(
        &'a self,
        lane: usize,
        deadline: Instant,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Vec<Value>, Error>> {
        Box::pin(self.send(&self.shared[lane], deadline, request))
    }

    async fn send(
        &self,
        lane: &Mutex<Lane>,
        deadline: Instant,
        request: Request<'_>,
    ) -> Result<Vec<Value>, Error> {
        let mut pause = PAUSE.0;
        let mut lost = false;
        loop {
            let trouble = match tokio::time::timeout_at(deadline, self.attempt(lane, request)).await
            {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::Lost("it took too long".to_owned()),
            };
            let reason = match trouble {
                Trouble::Final(error) => return Err(error),
                Trouble::NoFunction => {
                    self.load(lane).await?;
                    "the functions had to be loaded again".to_owned()
                }
                Trouble::Lost(reason) => {
                    lost = true;
                    reason
                }
                Trouble::Unsent(reason) | Trouble::NotNow(reason) => reason,
            };
            if Instant::now() + pause >= deadline {
                let address = self.address.clone();
                return Err(if lost {
                    Error::Unanswered { address, reason }
                } else {
                    Error::Unreachable { address, reason }
                });
            }
            tracing::debug!(address = %self.address, %reason, "the store is asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn attempt(
        &self,
        lane: &Mutex<Lane>,
        request: Request<'_>,
    ) -> Result<Vec<Value>, Trouble> {
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

    /// What an error of the client library means to a caller of the store.
    fn judge(&self, error: &RedisError) -> Trouble {
        let reason = error.to_string();
        let address = self.address.clone();
        let refused = error.kind() == redis::ErrorKind::AuthenticationFailed;
        match error.code() {
            _ if refused => Trouble::Final(Error::Denied { address, reason }),
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => {
                Trouble::Final(Error::Denied { address, reason })
            }
            Some("OOM" | "MISCONF") => Trouble::Final(Error::Full { address, reason }),
            Some("LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY") => {
                Trouble::NotNow(reason)
            }
            _ if reason.contains("Function not found") => Trouble::NoFunction,
            // Not every right is named by its code: inside a function the error is wrapped.
            _ if reason.contains("NOPERM") || reason.contains("ACL failure") => {
                Trouble::Final(Error::Denied { address, reason })
            }
            Some(_) => Trouble::Final(Error::Corrupt(reason)),
            None if error.kind() == redis::ErrorKind::UnexpectedReturnType => {
                Trouble::Final(Error::Corrupt(reason))
            }
            None if error.kind() == redis::ErrorKind::InvalidClientConfig => {
                Trouble::Final(Error::Unsuitable { address, reason })
            }
            None => Trouble::Lost(reason),
        }
    }

    /// Loads the library on a lane, for a request that missed one of its functions and comes back
    /// here until its deadline.
    async fn load(&self, lane: &Mutex<Lane>) -> Result<(), Error> {
        let list = self.attempt(lane, Request::One(&library::list())).await;
        let list = match list.map(|answers| answers.into_iter().next()) {
            Ok(list) => list.unwrap_or(Value::Nil),
            Err(Trouble::Final(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        if !self.is_replaceable(&list)? {
            return Ok(());
        }
        match self.attempt(lane, Request::One(&library::load())).await {
            Err(Trouble::Final(error)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// What the server has under the library's name, with its text.
    pub(super) async fn library(&self, deadline: Instant) -> Result<Value, Error> {
        self.ask_by(&0, &library::list(), deadline).await
    }

    /// Loads the library unless the server has this very text, or that of a later build: two builds
    /// that replaced each other's would do so for as long as both run.
    pub(super) async fn ensure_library(&self, deadline: Instant) -> Result<(), Error> {
        if self.is_replaceable(&self.library(deadline).await?)? {
            self.ask_by(&0, &library::load(), deadline).await?;
        }
        Ok(())
    }

    /// Whether this build's functions are to be loaded in place of those in the server's list.
    fn is_replaceable(&self, list: &Value) -> Result<bool, Error> {
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
        let Some(connection) = own.0.as_mut() else { return Ok(None) };
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

/// A connection that leaves its pool for ever unless it was given back: someone else's answer may
/// still be under way on it.
struct Own(Option<Connection>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
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

fn lane_of(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
}

/// Shared by all clones of a store.
pub(super) type Shared = Arc<Lanes>;
