//! What is on this worker against what a store knows that has begun another life.

use std::collections::{BTreeMap, BTreeSet};

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::run::TaskStatus;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Error, Store};

use crate::core::{Compared, Recent};
use crate::flight::Key;
use crate::inputs::is_current;
use crate::lineage::forwarded_to;
use crate::values::Values;

/// Compares all results that are here, and the inputs of what has begun. A result that the store does
/// not name is forgotten; one that it has forgotten itself, and that was committed a short while ago,
/// is offered instead, if it was computed from what the store knows or is offered too.
pub(crate) async fn compare(
    store: &Store,
    values: &Values,
    mut tasks: BTreeMap<RunId, BTreeSet<TaskId>>,
    recent: &[Recent],
) -> Result<Compared, Error> {
    let recent: BTreeMap<Key, &Recent> = recent.iter().map(|recent| (recent.key, recent)).collect();
    for (run, task) in values.all() {
        tasks.entry(run).or_default().insert(task);
    }
    for recent in recent.values() {
        let inputs = recent.info.inputs(&recent.ready);
        tasks.entry(recent.key.0).or_default().extend(inputs);
    }
    let mut compared = Compared::default();
    for (run, tasks) in tasks {
        let tasks: Vec<TaskId> = tasks.into_iter().collect();
        let mut pending = BTreeSet::new();
        for part in tasks.chunks(limits::COMMIT_SUCCESSORS_MAX) {
            let statuses = store.inspect(run, part).await?;
            for (task, status) in part.iter().zip(statuses) {
                let key = (run, *task);
                let open = status.as_ref().is_none_or(is_pending);
                let nonce = values.nonce_of(key);
                let current = match (&status, nonce) {
                    (Some(status), Some(_)) => is_current(values, key, status),
                    _ => !open,
                };
                if current {
                    continue;
                }
                // Ascending: what it was computed from has been looked at.
                let offer = recent.get(&key).filter(|recent| Some(recent.nonce) == nonce);
                let offer = offer.and_then(|recent| offered(recent, status.as_ref(), &pending));
                match offer {
                    Some(offer) if values.take_back(key, offer.nonce) => {
                        compared.offers.push(offer);
                    }
                    _ => {
                        pending.insert(*task);
                        values.forget(key);
                        compared.stale.insert(key);
                    }
                }
            }
        }
    }
    Ok(compared)
}

fn is_pending(status: &TaskStatus) -> bool {
    status.state.state() == TaskState::Pending
}

/// The result as it can be committed again, if it can.
fn offered(
    recent: &Recent,
    status: Option<&TaskStatus>,
    pending: &BTreeSet<TaskId>,
) -> Option<Recent> {
    let status = status.filter(|status| is_pending(status))?;
    let same = status.state.generation() == recent.ready.generation;
    let forwarded = forwarded_to(status.state, status.record.as_deref());
    let known = recent.info.inputs(&recent.ready).iter().all(|input| !pending.contains(input));
    (same && forwarded.is_none() && known).then(|| recent.clone())
}
