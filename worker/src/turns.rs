//! Whose turn an attempt is: leases that are taken before the start, holders that are dead, workers
//! that have died of what they ran.

use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::handoff::{Fetcher, Peer};
use bolthole_broker::id::{Incarnation, RunId};
use bolthole_broker::run::{LeaseRequest, Leased, Ready};
use bolthole_broker::store::{Error, Store, WorkerRecord};
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Data ports that are probed at once.
const PROBES: usize = 32;

/// How long a port that drops connections is asked again, and the wait after the first time, doubled
/// each time.
const ENDING_MAX: Duration = Duration::from_secs(1);
const ENDING_WAIT: Duration = Duration::from_millis(20);

/// Takes leases.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) store: Store,
    pub(crate) fetcher: Fetcher,
    pub(crate) me: Incarnation,
    /// How long they last.
    pub(crate) lease: Duration,
    /// When it was last found out whether a worker has died, and whether one has.
    pub(crate) deaths: Mutex<Option<(Instant, bool)>>,
}

/// Whether an attempt may start.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turn {
    Ours {
        attempt: u32,
        /// Of a suspect: how often it has crashed.
        crashes: Option<u32>,
        /// Its former holder is dead.
        taken_over: bool,
    },
    NotOurs,
    /// Not before this time has passed.
    Early(Duration),
}

impl Turns {
    /// Takes the leases of tasks, each for the attempt of its nonce, unless another has one or its
    /// time has not come; an answer to each. A holder whose data port refuses, or answers as
    /// somebody else, is dead and is followed at once. May be repeated with the same nonces.
    pub(crate) async fn take(
        &self,
        run: RunId,
        attempts: &[(Ready, u64)],
    ) -> Result<Vec<Turn>, Error> {
        let mut requests: Vec<LeaseRequest> = attempts
            .iter()
            .map(|(ready, nonce)| {
                let Ready { task, generation, .. } = *ready;
                LeaseRequest { task, generation, nonce: *nonce, over: None }
            })
            .collect();
        let mut turns = vec![Turn::NotOurs; attempts.len()];
        let mut open: Vec<usize> = (0..attempts.len()).collect();
        let mut dead: BTreeMap<Incarnation, bool> = BTreeMap::new();
        for _ in 0..2 {
            if open.is_empty() {
                break;
            }
            let asked: Vec<LeaseRequest> = open.iter().map(|place| requests[*place]).collect();
            failpoint::reach(Point::LeaseBefore).await;
            let answers = self.store.lease(run, self.me, self.lease, &asked).await?;
            failpoint::reach(Point::LeaseAfter).await;
            let mut again = Vec::new();
            for (place, answer) in open.into_iter().zip(answers) {
                let request = &mut requests[place];
                turns[place] = match answer {
                    Leased::Granted { attempt, crashes } => {
                        Turn::Ours { attempt, crashes, taken_over: request.over.is_some() }
                    }
                    // By the store's clock; ours may differ, and then asks once more.
                    Leased::NotDue { at_ms } => {
                        let wait = at_ms.saturating_sub(clock::unix_ms());
                        Turn::Early(Duration::from_millis(wait))
                    }
                    Leased::Taken { holder, nonce } if request.over.is_none() => {
                        if holder != self.me && self.is_dead(holder, &mut dead).await? {
                            request.over = Some(nonce);
                            again.push(place);
                        }
                        Turn::NotOurs
                    }
                    _ => Turn::NotOurs,
                };
            }
            open = again;
        }
        Ok(turns)
    }

    /// Whether a worker is certainly gone. One without a record may only be cut off from the store:
    /// its lease runs out by itself. Each is asked about once.
    async fn is_dead(
        &self,
        holder: Incarnation,
        known: &mut BTreeMap<Incarnation, bool>,
    ) -> Result<bool, Error> {
        if let Some(dead) = known.get(&holder) {
            return Ok(*dead);
        }
        let workers = self.store.workers().await?;
        let found = workers.into_iter().find(|(_, record)| record.incarnation == holder);
        let dead = match found {
            Some((_, record)) => self.refuses(record).await,
            None => false,
        };
        known.insert(holder, dead);
        Ok(dead)
    }

    /// Whether the data port of a worker that has a record refuses, or is another's. The broker may
    /// hear of the end of a process before the port is closed: one that takes a connection and drops
    /// it at once is asked again.
    async fn refuses(&self, record: WorkerRecord) -> bool {
        if record.address.is_empty() {
            return false;
        }
        let peer = Peer { addr: record.address, incarnation: record.incarnation };
        let (asked, mut wait) = (Instant::now(), ENDING_WAIT);
        loop {
            match self.fetcher.probe(&peer).await {
                Ok(()) => return false,
                Err(error) if error.is_lost() => return true,
                // It is silent: whether it has died is for others to find out.
                Err(_) if asked.elapsed() >= ENDING_MAX => return false,
                Err(_) => sleep(wait).await,
            }
            wait *= 2;
        }
    }

    /// Whether a worker has lately gone without a farewell: then messages that come again may be of
    /// what it died of. Answers of what is true when it is asked or later; who asks meanwhile
    /// shares the answer of the next one.
    pub(crate) async fn has_anyone_died(&self) -> Result<bool, Error> {
        let asked = Instant::now();
        let mut last = self.deaths.lock().await;
        if let Some((began, died)) = *last
            && began >= asked
        {
            return Ok(died);
        }
        let began = Instant::now();
        // Asked again at last: what another worker buries meanwhile has no record any more.
        let died = !self.store.deaths().await?.is_empty()
            || self.is_any_dead().await?
            || !self.store.deaths().await?.is_empty();
        *last = Some((began, died));
        Ok(died)
    }

    async fn is_any_dead(&self) -> Result<bool, Error> {
        let workers = self.store.workers().await?.into_iter().map(|(_, record)| record);
        let others = workers.filter(|record| record.incarnation != self.me);
        let probes = others.map(|record| self.refuses(record));
        let mut answers = stream::iter(probes).buffer_unordered(PROBES);
        while let Some(refuses) = answers.next().await {
            if refuses {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
