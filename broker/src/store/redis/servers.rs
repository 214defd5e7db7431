//! Where requests go: to the one server there is, or to that of a cluster which has their key.
//!
//! Every request may be repeated, so one whose answer is lost is sent again until its deadline.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::super::{Epoch, Error};
use super::cluster::Cluster;
use super::lanes::{Lanes, Request, lane_of};
use super::library;
use super::slots::{key_of, slot};
use super::trouble::Trouble;
use crate::limits;

/// The first pause before a request is repeated, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// One server or many.
#[derive(Debug)]
pub(super) enum Servers {
    One(Arc<Lanes>),
    Cluster(Cluster),
}

/// Shared by all clones of a store.
pub(super) type Shared = Arc<Servers>;

/// Where a request goes.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// To whoever has this slot.
    Key { slot: u16, lane: usize },
    /// To this server.
    Server(&'a Lanes),
}

impl Servers {
    /// `host:port`; of a cluster those that were named.
    pub(super) fn address(&self) -> &str {
        match self {
            Self::One(lanes) => lanes.address(),
            Self::Cluster(cluster) => cluster.address(),
        }
    }

    /// Whether there may be several servers.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    fn place(&self, key: &impl Hash, command: &Cmd) -> Place<'static> {
        let lane = lane_of(key);
        match self {
            Self::One(_) => Place::Key { slot: 0, lane },
            Self::Cluster(_) => Place::Key { slot: slot(key_of(command)), lane },
        }
    }

    /// Sends a command on the lane of `key` until it is answered.
    pub(super) async fn ask(&self, key: &impl Hash, command: &Cmd) -> Result<Value, Error> {
        let deadline = Instant::now() + limits::STORE_DEADLINE;
        let place = self.place(key, command);
        self.repeat(place, deadline, Request::One(command)).await.map(first)
    }

    /// Sends a command to one of the [`Self::masters`] until it is answered.
    pub(super) async fn ask_at(
        &self,
        server: &Lanes,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, Error> {
        self.repeat(Place::Server(server), deadline, Request::One(command)).await.map(first)
    }

    /// Sends several commands at once until all of them are answered. Those of one slot are carried
    /// out in their order, those of different slots in any.
    pub(super) async fn ask_all(
        &self,
        key: &impl Hash,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, Error> {
        let deadline = Instant::now() + limits::STORE_DEADLINE;
        let slots = match self {
            Self::One(_) => Vec::new(),
            Self::Cluster(_) => {
                commands.cmd_iter().map(|command| slot(key_of(command))).collect::<Vec<u16>>()
            }
        };
        let first = slots.first().copied().unwrap_or(0);
        if slots.iter().all(|slot| *slot == first) {
            let place = Place::Key { slot: first, lane: lane_of(key) };
            return self.repeat(place, deadline, Request::Many(commands)).await;
        }
        self.ask_parts(&slots, commands, deadline).await
    }

    /// The commands of each slot by themselves; the answers in the order of the commands.
    fn ask_parts<'a>(
        &'a self,
        slots: &[u16],
        commands: &'a Pipeline,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Vec<Value>, Error>> {
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|at| slots[*at]);
        let all: Vec<&Cmd> = commands.cmd_iter().collect();
        let mut parts: Vec<BoxFuture<'a, Result<Vec<Value>, Error>>> = Vec::new();
        for part in order.chunk_by(|a, b| slots[*a] == slots[*b]) {
            let mut some = redis::pipe();
            for at in part {
                some.add_command(all[*at].clone());
            }
            let slot = slots[part[0]];
            let place = Place::Key { slot, lane: lane_of(&slot) };
            parts.push(Box::pin(
                async move { self.send(place, deadline, Request::Many(&some)).await },
            ));
        }
        Box::pin(async move {
            let answers = try_join_all(parts).await?.into_iter().flatten();
            let mut sorted = vec![Value::Nil; order.len()];
            for (at, answer) in order.into_iter().zip(answers) {
                sorted[at] = answer;
            }
            Ok(sorted)
        })
    }

    /// Boxed: every operation of the store ends here, and its callers' futures stay small.
    fn repeat<'a>(
        &'a self,
        place: Place<'a>,
        deadline: Instant,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Vec<Value>, Error>> {
        Box::pin(self.send(place, deadline, request))
    }

    async fn send(
        &self,
        place: Place<'_>,
        deadline: Instant,
        request: Request<'_>,
    ) -> Result<Vec<Value>, Error> {
        let mut pause = PAUSE.0;
        let mut lost = false;
        loop {
            let attempt = tokio::time::timeout_at(deadline, self.attempt(place, request));
            let trouble = match attempt.await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::Lost("it took too long".to_owned()),
            };
            let reason = match trouble {
                Trouble::Final(error) => return Err(error),
                Trouble::NoFunction => "a function is missing".to_owned(),
                Trouble::Lost(reason) => {
                    lost = true;
                    reason
                }
                Trouble::Unsent(reason) | Trouble::NotNow(reason) => reason,
            };
            if Instant::now() + pause >= deadline {
                let address = match place {
                    Place::Key { .. } => self.address(),
                    Place::Server(server) => server.address(),
                }
                .to_owned();
                return Err(if lost {
                    Error::Unanswered { address, reason }
                } else {
                    Error::Unreachable { address, reason }
                });
            }
            tracing::debug!(address = %self.address(), %reason, "the store is asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn attempt(&self, place: Place<'_>, request: Request<'_>) -> Result<Vec<Value>, Trouble> {
        match (self, place) {
            (_, Place::Server(server)) => server.attempt(0, request).await,
            (Self::One(lanes), Place::Key { lane, .. }) => lanes.attempt(lane, request).await,
            (Self::Cluster(cluster), Place::Key { slot, lane }) => {
                cluster.attempt(slot, lane, request).await
            }
        }
    }

    /// Every server that has keys, as it is now.
    pub(super) fn masters(
        &self,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<Arc<Lanes>>, Error>> {
        Box::pin(async move {
            match self {
                Self::One(lanes) => Ok(vec![Arc::clone(lanes)]),
                Self::Cluster(cluster) => Ok(self.layout(cluster, deadline).await?.masters()),
            }
        })
    }

    async fn layout(
        &self,
        cluster: &Cluster,
        deadline: Instant,
    ) -> Result<Arc<super::cluster::Map>, Error> {
        let unreachable =
            |reason| Error::Unreachable { address: cluster.address().to_owned(), reason };
        let mut pause = PAUSE.0;
        loop {
            let reason = match tokio::time::timeout_at(deadline, cluster.layout()).await {
                Ok(Ok(map)) => return Ok(map),
                Ok(Err(Trouble::Final(error))) => return Err(error),
                Ok(Err(
                    Trouble::Unsent(reason) | Trouble::Lost(reason) | Trouble::NotNow(reason),
                )) => reason,
                Ok(Err(Trouble::NoFunction)) | Err(_) => "it took too long".to_owned(),
            };
            if Instant::now() + pause >= deadline {
                return Err(unreachable(reason));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Whether all of a cluster answers: what is said of time without contact holds for each server.
    /// Of one server, whoever asks knows.
    pub(super) async fn look_at_all(&self) -> Result<(), Error> {
        if !self.is_cluster() {
            return Ok(());
        }
        let deadline = Instant::now() + limits::STORE_DEADLINE;
        let (masters, ping) = (self.masters(deadline).await?, redis::cmd("PING"));
        let look = |server| self.repeat(Place::Server(server), deadline, Request::One(&ping));
        try_join_all(masters.iter().map(|server| look(server))).await?;
        Ok(())
    }

    /// The life of the data: the `run_id` of the server, another one after each start, or what stands
    /// for those of all servers of a cluster.
    pub(super) fn epoch(&self) -> BoxFuture<'_, Result<Epoch, Error>> {
        let deadline = Instant::now() + limits::STORE_DEADLINE;
        Box::pin(async move {
            match self {
                Self::One(lanes) => self.run_id(lanes, deadline).await.map(Epoch),
                Self::Cluster(cluster) => {
                    let map = self.layout(cluster, deadline).await?;
                    let masters = map.masters();
                    let ids = masters.iter().map(|server| self.run_id(server, deadline));
                    Ok(cluster.life(&map, &try_join_all(ids).await?))
                }
            }
        })
    }

    fn run_id<'a>(
        &'a self,
        server: &'a Lanes,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<String, Error>> {
        Box::pin(async move {
            let mut command = redis::cmd("INFO");
            command.arg("server");
            let info = super::bytes(self.ask_at(server, &command, deadline).await?)?;
            let info = String::from_utf8_lossy(&info);
            let id = super::connect::field(&info, "run_id");
            id.map(ToOwned::to_owned).ok_or_else(|| Error::Corrupt("INFO server".to_owned()))
        })
    }

    /// A life of the store as the server knows it that has this key. Of one that is not remembered,
    /// what no server is called.
    pub(super) fn life_at(&self, key: &str, epoch: &Epoch) -> Epoch {
        match self {
            Self::One(_) => epoch.clone(),
            Self::Cluster(cluster) => {
                let life = cluster.life_of(slot(key.as_bytes()), epoch);
                life.unwrap_or_else(Epoch::suspicious)
            }
        }
    }

    /// Sends a command that blocks for `patience` at the most, on a connection of its own. `None`
    /// when the connection broke: whoever waits looks again.
    pub(super) async fn block(
        &self,
        key: &str,
        command: &Cmd,
        patience: Duration,
    ) -> Result<Option<Value>, Error> {
        match self {
            Self::One(lanes) => lanes.block(command, patience).await,
            Self::Cluster(cluster) => match cluster.owner(slot(key.as_bytes())).await {
                Some(lanes) => lanes.block(command, patience).await,
                None => Ok(None),
            },
        }
    }

    /// What a server has under the library's name, with its text.
    pub(super) async fn library(&self, server: &Lanes, deadline: Instant) -> Result<Value, Error> {
        self.ask_at(server, &library::list(), deadline).await
    }

    /// Loads the library wherever there is not this very text, or that of a later build: two builds
    /// that replaced each other's would do so for as long as both run.
    pub(super) async fn ensure_library(&self, deadline: Instant) -> Result<(), Error> {
        for server in self.masters(deadline).await? {
            if server.is_replaceable(&self.library(&server, deadline).await?)? {
                self.ask_at(&server, &library::load(), deadline).await?;
            }
        }
        Ok(())
    }
}

fn first(answers: Vec<Value>) -> Value {
    answers.into_iter().next().unwrap_or(Value::Nil)
}
