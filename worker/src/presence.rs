//! This worker as others see it: a record in the store that runs out unless it is renewed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits;
use bolthole_broker::store::{Epoch, Store, WorkerRecord};
use tokio::sync::{RwLock, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::pulse::Pulse;

/// What the worker has in flight, by run: written by its loop, read when the record is renewed.
pub(crate) type InFlight = Arc<Mutex<Vec<(RunId, Vec<TaskId>)>>>;

/// Keeps the record, and looks whether the store has begun another life.
pub(crate) struct Presence {
    pub(crate) store: Store,
    pub(crate) index: WorkerIndex,
    pub(crate) record: WorkerRecord,
    /// How long the record stands without being renewed.
    pub(crate) lease: Duration,
    pub(crate) in_flight: InFlight,
    pub(crate) epoch: Arc<RwLock<Epoch>>,
    /// Tells the worker's loop of another life of the store.
    pub(crate) life: watch::Sender<Epoch>,
    pub(crate) pulse: Pulse,
    pub(crate) stop: CancellationToken,
}

impl Presence {
    /// Renews the record until the worker stops, then deletes it.
    pub(crate) async fn keep(self) {
        let Self { store, index, mut record, lease, in_flight, epoch, life, pulse, stop } = self;
        let every = lease / limits::WORKER_RENEWALS;
        // An answer that is lost must not cost the record: asked again, it is renewed in time.
        let patience = 2 * every;
        // After a failure the record may run out, or has: others take what is here for lost then.
        let soon = every / 10;
        let mut renew = interval(every);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = renew.tick() => {}
            }
            record.in_flight.clone_from(&in_flight.lock().unwrap_or_else(PoisonError::into_inner));
            match timeout(patience, store.beat(index, &record, lease)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => tracing::warn!(%index, "the worker's record had run out"),
                Ok(Err(error)) => {
                    tracing::warn!(%index, %error, "the worker's record was not renewed");
                    pulse.store(Some(error.to_string()));
                    renew.reset_after(soon);
                    continue;
                }
                Err(_) => {
                    tracing::warn!(%index, "the store does not answer: the record is renewed again");
                    pulse.store(Some("it does not answer".to_owned()));
                    renew.reset_after(soon);
                    continue;
                }
            }
            pulse.store(None);
            let Ok(epoch_now) = timeout(patience, store.epoch()).await else { continue };
            match epoch_now {
                Ok(now) if now != *life.borrow() => {
                    tracing::warn!(
                        "the store has begun another life: what it said before is checked"
                    );
                    // Until all that is here was compared, no message is taken at its word.
                    *epoch.write().await = Epoch::unknown();
                    life.send_replace(now);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the store's epoch is not known"),
            }
        }
        if let Err(error) = store.leave(index).await {
            tracing::debug!(%index, %error, "the worker's record was not removed; it will run out");
        }
    }
}
