//! The servers of a Redis Cluster, and which of them has which slot.
//!
//! Each server has its lanes, so that one that is away holds nobody up who asks another. Whoever is
//! turned away, or reaches nobody, has the layout read again and comes back by the loop in `servers`.
//! Nobody is sent after a slot that is on its way to another server: see `trouble`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, Value};
use tokio::time::{Instant, timeout};

use super::super::{Epoch, Error};
use super::lanes::{Lanes, Request};
use super::slots::{self, Range};
use super::trouble::Trouble;
use crate::limits;

/// A layout that is younger than this is not read again: whoever fails meanwhile waits longer anyway.
const FRESH: Duration = Duration::from_millis(100);
/// Lives of the store whose servers are remembered. Who names an older one has slept for a while.
const LIVES: usize = 16;

/// All servers of a cluster.
pub(super) struct Cluster {
    /// As the URL has them, with the login that is good for all of the cluster.
    seeds: Vec<(ConnectionInfo, Arc<Lanes>)>,
    address: String,
    map: RwLock<Arc<Map>>,
    /// Whoever holds it reads the layout; since when there is the one there is.
    reading: tokio::sync::Mutex<Option<Instant>>,
    turn: AtomicUsize,
    lives: Mutex<VecDeque<(Epoch, Vec<Life>)>>,
}

/// Slots, and the `run_id` of the server that has them.
struct Life {
    first: u16,
    last: u16,
    run_id: String,
}

/// Which server has which slot. The number goes up with every reading.
#[derive(Default)]
pub(super) struct Map {
    number: u64,
    ranges: Vec<(Range, Arc<Lanes>)>,
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Arc<Lanes>> {
        let at = self.ranges.partition_point(|(range, _)| range.last < slot);
        self.ranges.get(at).filter(|(range, _)| range.first <= slot).map(|(_, lanes)| lanes)
    }

    /// Every server that has slots, once.
    pub(super) fn masters(&self) -> Vec<Arc<Lanes>> {
        let mut masters: Vec<Arc<Lanes>> = Vec::new();
        for (_, lanes) in &self.ranges {
            if !masters.iter().any(|known| Arc::ptr_eq(known, lanes)) {
                masters.push(Arc::clone(lanes));
            }
        }
        masters
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("seeds", &self.address).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of which these are some servers; nothing is connected yet.
    pub(super) fn new(seeds: Vec<ConnectionInfo>) -> Result<Self, Error> {
        let lanes = |info: ConnectionInfo| {
            let lanes = Lanes::new(&info, info.addr().to_string())?;
            Ok((info, Arc::new(lanes)))
        };
        let seeds: Vec<_> = seeds.into_iter().map(lanes).collect::<Result<_, Error>>()?;
        let address: Vec<&str> = seeds.iter().map(|(_, lanes)| lanes.address()).collect();
        Ok(Self {
            address: address.join(","),
            seeds,
            map: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            turn: AtomicUsize::new(0),
            lives: Mutex::default(),
        })
    }

    /// The servers of the URL.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a request once to the server that has the slot.
    pub(super) async fn attempt(
        &self,
        slot: u16,
        lane: usize,
        request: Request<'_>,
    ) -> Result<Vec<Value>, Trouble> {
        let mut map = self.map();
        if map.ranges.is_empty() {
            map = self.read_again(map.number).await?;
        }
        let Some(owner) = map.owner(slot) else {
            self.read_again(map.number).await?;
            return Err(Trouble::NotNow(format!("no server of the cluster has slot {slot}")));
        };
        match owner.attempt(lane, request).await {
            Err(Trouble::Final(error)) => Err(Trouble::Final(error)),
            Err(trouble) => {
                // Whoever cannot read it now goes by the one there is.
                drop(self.read_again(map.number).await);
                Err(trouble.at(owner.address()))
            }
            answers => answers,
        }
    }

    /// The server that has the slot, as far as is known.
    pub(super) async fn owner(&self, slot: u16) -> Option<Arc<Lanes>> {
        let mut map = self.map();
        if map.ranges.is_empty() {
            map = self.read_again(map.number).await.ok()?;
        }
        map.owner(slot).map(Arc::clone)
    }

    /// The layout as it is now, or was [`FRESH`] ago.
    pub(super) async fn layout(&self) -> Result<Arc<Map>, Trouble> {
        self.read_again(self.map().number).await
    }

    /// Reads the layout, unless somebody has done so since there was the one of this number.
    async fn read_again(&self, seen: u64) -> Result<Arc<Map>, Trouble> {
        let mut read_at = self.reading.lock().await;
        let map = self.map();
        if map.number != seen || read_at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(map);
        }
        let known = map.masters();
        let seeds = self.seeds.iter().map(|(_, lanes)| lanes);
        let mut candidates: Vec<Arc<Lanes>> = known.iter().chain(seeds).cloned().collect();
        // Another one each time: one that was left behind by the others may still answer.
        let turns = known.len().max(self.seeds.len()).max(1);
        candidates.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % turns);
        let mut said = Trouble::Unsent("no server of the cluster answers".to_owned());
        for server in candidates {
            match self.ask_layout(&server).await {
                Ok(ranges) => {
                    let map = Arc::new(self.put_together(map.number + 1, ranges, &map)?);
                    *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&map);
                    *read_at = Some(Instant::now());
                    return Ok(map);
                }
                Err(trouble) => said = trouble,
            }
        }
        Err(said)
    }

    async fn ask_layout(&self, server: &Lanes) -> Result<Vec<Range>, Trouble> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let asking = server.attempt(0, Request::One(&command));
        let address = server.address();
        let answer = match timeout(limits::STORE_CONNECT, asking).await {
            Ok(Ok(answers)) => answers.into_iter().next().unwrap_or(Value::Nil),
            Ok(Err(Trouble::Final(error))) => return Err(Trouble::Final(no_cluster(error))),
            Ok(Err(trouble)) => return Err(trouble.at(address)),
            Err(_) => return Err(Trouble::Unsent("it does not answer".to_owned()).at(address)),
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        match slots::layout(&answer, host) {
            Some(ranges) if ranges.is_empty() => {
                Err(Trouble::NotNow("no server has any slots yet".to_owned()).at(address))
            }
            Some(ranges) => Ok(ranges),
            None => {
                let what = format!("what {address} answers to CLUSTER SLOTS");
                Err(Trouble::Final(Error::Corrupt(what)))
            }
        }
    }

    /// A layout with lanes: those there are to servers that stay.
    fn put_together(&self, number: u64, ranges: Vec<Range>, old: &Map) -> Result<Map, Trouble> {
        let seeds = self.seeds.iter().map(|(_, lanes)| lanes.clone());
        let known = old.masters().into_iter().chain(seeds);
        let mut servers: HashMap<String, Arc<Lanes>> =
            known.map(|lanes| (lanes.address().to_owned(), lanes)).collect();
        let mut map = Map { number, ranges: Vec::with_capacity(ranges.len()) };
        for range in ranges {
            let address = format!("{}:{}", range.host, range.port);
            let lanes = if let Some(lanes) = servers.get(&address) {
                Arc::clone(lanes)
            } else {
                let made = self.server(&range, &address).map_err(Trouble::Final)?;
                servers.insert(address, Arc::clone(&made));
                made
            };
            map.ranges.push((range, lanes));
        }
        Ok(map)
    }

    /// Lanes to a server that the others have named, by the login and the TLS of the URL.
    fn server(&self, range: &Range, address: &str) -> Result<Arc<Lanes>, Error> {
        let unknown = || Error::Corrupt("a cluster without servers".to_owned());
        let (seed, _) = self.seeds.first().ok_or_else(unknown)?;
        let (host, port) = (range.host.clone(), range.port);
        let place = match seed.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                let (insecure, tls_params) = (*insecure, tls_params.clone());
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Lanes::new(&seed.clone().set_addr(place), address.to_owned()).map(Arc::new)
    }

    /// The life of all servers together: another one when one of them has begun another, and when
    /// slots have changed hands. `run_ids` are those of [`Map::masters`], in their order.
    pub(super) fn life(&self, map: &Map, run_ids: &[String]) -> Epoch {
        let masters = map.masters();
        let mut lives: Vec<Life> = Vec::with_capacity(map.ranges.len());
        for (range, lanes) in &map.ranges {
            let at = masters.iter().position(|known| Arc::ptr_eq(known, lanes));
            let run_id = at.and_then(|at| run_ids.get(at)).cloned().unwrap_or_default();
            match lives.last_mut() {
                // However a server's slots are told, they are the same.
                Some(before) if before.run_id == run_id && before.last + 1 == range.first => {
                    before.last = range.last;
                }
                _ => lives.push(Life { first: range.first, last: range.last, run_id }),
            }
        }
        let mut hasher = blake3::Hasher::new();
        for life in &lives {
            hasher.update(format!("{}-{}:{};", life.first, life.last, life.run_id).as_bytes());
        }
        let epoch = Epoch(hasher.finalize().to_hex()[..40].to_owned());
        let mut known = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().any(|(of, _)| *of == epoch) {
            known.truncate(LIVES - 1);
            known.push_front((epoch.clone(), lives));
        }
        epoch
    }

    /// In a life of the store, the life of the server that had this slot; `None` when it is not known
    /// any more.
    pub(super) fn life_of(&self, slot: u16, epoch: &Epoch) -> Option<Epoch> {
        let known = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, lives) = known.iter().find(|(of, _)| of == epoch)?;
        let life = lives.iter().find(|life| (life.first..=life.last).contains(&slot))?;
        Some(Epoch(life.run_id.clone()))
    }
}

/// What a server says that is in no cluster, as advice.
fn no_cluster(error: Error) -> Error {
    match error {
        Error::Corrupt(reason) if reason.contains("cluster support disabled") => {
            Error::Unsuitable {
                address: "the given URL".to_owned(),
                reason: "it is a server by itself, in no cluster; write redis:// instead of \
                         redis+cluster://"
                    .to_owned(),
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn cluster() -> Cluster {
        Cluster::new(vec!["redis://u:hunter2@a:1".into_connection_info().unwrap()]).unwrap()
    }

    fn map(cluster: &Cluster, ranges: &[(u16, u16, &str)]) -> Map {
        let range = |(first, last, host): &(u16, u16, &str)| Range {
            first: *first,
            last: *last,
            host: (*host).to_owned(),
            port: 1,
        };
        let ranges = ranges.iter().map(range).collect();
        let Ok(map) = cluster.put_together(1, ranges, &Map::default()) else { panic!() };
        map
    }

    #[test]
    fn a_slot_has_the_server_of_its_range() {
        let cluster = cluster();
        let map = map(&cluster, &[(0, 99, "a"), (100, 199, "b"), (300, 400, "a")]);
        let owner = |slot| map.owner(slot).map(|lanes| lanes.address().to_owned());
        for (slot, address) in [(0, "a:1"), (99, "a:1"), (100, "b:1"), (400, "a:1")] {
            assert_eq!(owner(slot).as_deref(), Some(address), "{slot}");
        }
        assert_eq!((owner(200), owner(401)), (None, None));
        assert_eq!(map.masters().len(), 2);
        assert!(Arc::ptr_eq(&map.masters()[0], &cluster.seeds[0].1), "its lanes are used");
        assert!(!format!("{cluster:?}").contains("hunter2"));
    }

    #[test]
    fn a_life_is_one_of_all_servers_and_of_who_has_what() {
        let cluster = cluster();
        let ids = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let halves = map(&cluster, &[(0, 99, "a"), (100, 199, "b")]);
        let before = cluster.life(&halves, &ids("A", "B"));
        let told_apart = map(&cluster, &[(0, 49, "a"), (50, 99, "a"), (100, 199, "b")]);
        assert_eq!(cluster.life(&told_apart, &ids("A", "B")), before);
        let after = cluster.life(&halves, &ids("A", "C"));
        let moved = map(&cluster, &[(0, 109, "a"), (110, 199, "b")]);
        let moved = cluster.life(&moved, &ids("A", "C"));
        assert!(before != after && after != moved);
        let of = |slot, epoch| cluster.life_of(slot, epoch).map(|life| life.0);
        assert_eq!(of(105, &before).as_deref(), Some("B"));
        assert_eq!(of(105, &after).as_deref(), Some("C"));
        assert_eq!(of(105, &moved).as_deref(), Some("A"));
        assert_eq!(of(500, &moved), None);
        for number in 0..LIVES {
            cluster.life(&halves, &ids("A", &number.to_string()));
        }
        assert_eq!(of(105, &before), None, "it is long ago");
    }
}
