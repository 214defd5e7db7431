//! This worker as others see it: a record in the store that runs out unless it is renewed.

use std::sync::{Arc, Mutex, PoisonError};

use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits;
use bolthole_broker::store::{Epoch, Store, WorkerRecord};
use tokio::sync::RwLock;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::pulse::Pulse;

/// What the worker has in flight, by run: written by its loop, read when the record is renewed.
pub(crate) type InFlight = Arc<Mutex<Vec<(RunId, Vec<TaskId>)>>>;

/// Renews the record until `stop`, and looks whether the store has begun another life.
pub(crate) async fn keep(
    store: Store,
    index: WorkerIndex,
    mut record: WorkerRecord,
    in_flight: InFlight,
    epoch: Arc<RwLock<Epoch>>,
    pulse: Pulse,
    stop: CancellationToken,
) {
    let mut renew = interval(limits::WORKER_RENEW);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = renew.tick() => {}
        }
        record.in_flight.clone_from(&in_flight.lock().unwrap_or_else(PoisonError::into_inner));
        match store.beat(index, &record).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(%index, "the worker's record had run out"),
            Err(error) => {
                tracing::warn!(%index, %error, "the worker's record was not renewed");
                pulse.store(Some(error.to_string()));
                continue;
            }
        }
        pulse.store(None);
        match store.epoch().await {
            Ok(now) if now != *epoch.read().await => {
                tracing::warn!("the store has begun another life: what it said before is checked");
                *epoch.write().await = now;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the store's epoch is not known"),
        }
    }
    if let Err(error) = store.leave(index).await {
        tracing::debug!(%index, %error, "the worker's record was not removed; it will run out");
    }
}
