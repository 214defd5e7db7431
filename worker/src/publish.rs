//! Ringing for ready tasks: parcels by queue, with the descriptors that are at hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::parcel::Parcel;
use bolthole_broker::queue::{Levels, Queue, QueueName, Route};
use bolthole_broker::run::Ready;
use bolthole_broker::store::{Epoch, Error};
use bytes::Bytes;
use tokio::sync::RwLock;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::flight::{Doubt, TaskInfo};
use crate::known::Known;

/// Tries of a publication before it is left to reconciling.
const TRIES: u32 = 5;
/// The wait after the first of them, doubled each time up to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) queue: Queue,
    pub(crate) known: Arc<Known>,
    /// The store's life, as last seen.
    pub(crate) epoch: Arc<RwLock<Epoch>>,
    pub(crate) levels: Levels,
}

impl Publisher {
    /// Rings for tasks that others may run, `per_parcel` of them with each message. `doubt` is
    /// what receivers must know. True when the broker has confirmed all of it, false after some
    /// tries.
    pub(crate) async fn ring(
        &self,
        run: RunId,
        ready: &[Ready],
        doubt: Doubt,
        per_parcel: usize,
    ) -> bool {
        let mut left = None;
        let mut wait = WAIT.0;
        for _ in 0..TRIES {
            if self.ring_once(run, ready, doubt, per_parcel, &mut left).await {
                return true;
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT.1);
        }
        false
    }

    /// As [`Self::ring`], until it has succeeded or the worker stops.
    pub(crate) async fn ring_until(
        &self,
        run: RunId,
        ready: &[Ready],
        doubt: Doubt,
        per_parcel: usize,
        stop: &CancellationToken,
    ) -> bool {
        let mut left = None;
        let mut wait = WAIT.0;
        while !stop.is_cancelled() {
            if self.ring_once(run, ready, doubt, per_parcel, &mut left).await {
                return true;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.queue.unblocked(), if self.queue.is_blocked() => {}
                () = sleep(wait) => wait = (wait * 2).min(WAIT.1),
            }
        }
        false
    }

    /// Publishes what is `left`, at first everything; true when nothing is.
    async fn ring_once(
        &self,
        run: RunId,
        ready: &[Ready],
        doubt: Doubt,
        per_parcel: usize,
        left: &mut Option<Vec<(Route, Bytes)>>,
    ) -> bool {
        let messages = match left.take() {
            Some(messages) => messages,
            None => match self.parcels(run, ready, doubt, per_parcel).await {
                Ok(parcels) => parcels,
                Err(error) => {
                    tracing::warn!(%run, %error, "cannot publish released tasks");
                    return false;
                }
            },
        };
        failpoint::reach(Point::PublishBefore).await;
        let results = self.queue.publish_all(messages.clone()).await;
        let mut reason = None;
        let failed = messages.into_iter().zip(results).filter_map(|(message, result)| {
            reason = Some(result.err()?);
            Some(message)
        });
        let failed: Vec<_> = failed.collect();
        if let Some(error) = &reason {
            tracing::warn!(%run, messages = failed.len(), %error, "not published yet");
        }
        *left = Some(failed);
        reason.is_none()
    }

    /// Rings for one task when it is due again. Only a reminder: the due time is in the store.
    pub(crate) async fn ring_later(
        &self,
        run: RunId,
        ready: Ready,
        info: &TaskInfo,
        delay: Duration,
    ) {
        let class = info.class();
        let described = |_: TaskId| Some((class, info.descriptor()));
        let never = Epoch::unknown();
        let packed = Parcel::pack(run, &never, &[ready], described, 1);
        let (Ok(packed), Ok(name)) = (packed, QueueName::new(&class.options.queue)) else { return };
        let route = Route::hi(&name).at(self.levels.of_next(run, packed.len()));
        for body in packed {
            if let Err(error) = self.queue.publish_delayed(&route, body, delay).await {
                tracing::warn!(%run, %error, "no reminder is set; reconciling will find the task");
            }
        }
    }

    async fn parcels(
        &self,
        run: RunId,
        ready: &[Ready],
        doubt: Doubt,
        per_parcel: usize,
    ) -> Result<Vec<(Route, Bytes)>, Error> {
        let tasks: Vec<TaskId> = ready.iter().map(|ready| ready.task).collect();
        self.known.load(run, &tasks).await?;
        let mut by_queue: BTreeMap<String, Vec<(Ready, TaskInfo)>> = BTreeMap::new();
        for ready in ready {
            if let Some(info) = self.known.describe(run, ready.task) {
                let queue = info.class().options.queue.clone();
                by_queue.entry(queue).or_default().push((*ready, info));
            }
        }
        // A receiver takes nothing for granted that was said in another life of the store.
        let epoch = match doubt {
            Doubt::None => self.epoch.read().await.clone(),
            Doubt::Old | Doubt::Repeated => Epoch::unknown(),
            Doubt::Deadly(_) => Epoch::suspicious(),
        };
        let mut parcels = Vec::new();
        for (queue, tasks) in by_queue {
            let name = QueueName::new(&queue).map_err(|error| Error::Corrupt(error.to_string()))?;
            let route = Route::hi(&name);
            for part in tasks.chunks(per_parcel.max(1)) {
                let ready: Vec<Ready> = part.iter().map(|(ready, _)| *ready).collect();
                let described = |task: TaskId| {
                    let found = part.iter().find(|(ready, _)| ready.task == task);
                    found.map(|(_, info)| (info.class(), info.descriptor()))
                };
                let packed = Parcel::pack(run, &epoch, &ready, described, part.len())
                    .map_err(|error| Error::Corrupt(error.to_string()))?;
                parcels.extend(packed.into_iter().map(|body| (route.clone(), body)));
            }
        }
        let level = self.levels.of_next(run, parcels.len());
        for (route, _) in &mut parcels {
            route.level = level;
        }
        Ok(parcels)
    }
}
