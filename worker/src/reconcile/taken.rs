//! What outlives its maker must end as well: results that peers handed over, and files in the
//! result folder, which no record and no run names any more.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use bolthole_broker::durable::Folder;
use bolthole_broker::id::{ResultKey, RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::run::TaskStatus;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Error, Store};

use crate::values::Values;

/// Looks in a row at which something is unnamed before it is deleted: a result arrives before its
/// record says so.
const UNNAMED_LOOKS: u32 = 3;

/// What was unnamed so far, and how often in a row.
#[derive(Debug, Default)]
pub(super) struct Taken {
    results: Unnamed<ResultKey>,
    runs: Unnamed<RunId>,
}

#[derive(Debug)]
struct Unnamed<T>(HashMap<T, u32>);

impl<T> Default for Unnamed<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy + Eq + Hash> Unnamed<T> {
    /// Notes what is unnamed now; what has been for long enough.
    fn again(&mut self, unnamed: Vec<T>) -> Vec<T> {
        let before = std::mem::take(&mut self.0);
        let looks = unnamed.into_iter().map(|one| (one, before.get(&one).map_or(1, |n| n + 1)));
        let (over, still): (HashMap<T, u32>, _) = looks.partition(|(_, n)| *n >= UNNAMED_LOOKS);
        self.0 = still;
        over.into_keys().collect()
    }
}

impl Taken {
    /// Drops the results that were handed over and are not named.
    pub(super) async fn sweep(&mut self, store: &Store, values: &Values) -> Result<(), Error> {
        let mut by_run: BTreeMap<RunId, Vec<ResultKey>> = BTreeMap::new();
        for key in values.taken_over() {
            by_run.entry(key.run).or_default().push(key);
        }
        let mut unnamed = Vec::new();
        for (run, keys) in by_run {
            for keys in keys.chunks(limits::INSPECT_TASKS_MAX) {
                let tasks: Vec<TaskId> = keys.iter().map(|key| key.task).collect();
                let statuses = store.inspect(run, &tasks).await?;
                let all = keys.iter().zip(statuses);
                let none = all.filter(|(key, status)| {
                    !status.as_ref().is_some_and(|status| is_named(**key, status, values))
                });
                unnamed.extend(none.map(|(key, _)| *key));
            }
        }
        for key in self.results.again(unnamed) {
            values.held().drop_key(&key);
        }
        Ok(())
    }

    /// Deletes the files of runs that are no more.
    pub(super) async fn clear(&mut self, store: &Store, folder: &Folder) -> Result<(), Error> {
        let runs = match folder.runs().await {
            Ok(runs) => runs,
            Err(error) => {
                tracing::warn!(%error, "the result folder cannot be looked after");
                return Ok(());
            }
        };
        let mut gone = Vec::new();
        for run in runs {
            if store.status(run).await?.is_none() {
                gone.push(run);
            }
        }
        for run in self.runs.again(gone) {
            match folder.remove_run(run).await {
                Ok(()) => tracing::info!(%run, "deleted the result files of a run that is no more"),
                Err(error) => tracing::warn!(%run, %error, "result files were not deleted"),
            }
        }
        Ok(())
    }
}

/// Whether the store says that this worker has this result, or a copy of it.
fn is_named(key: ResultKey, status: &TaskStatus, values: &Values) -> bool {
    let record = status.record.as_deref().map(HeldRecord::from_bytes);
    let Some(Ok(record)) = record else { return false };
    let me = values.me();
    let holder = matches!(status.locator, Locator::Held { worker, .. } if worker == me);
    status.state.state() == TaskState::Done
        && status.state.generation() == key.generation
        && record.nonce == key.nonce
        && (holder || record.copies.worker == Some(me))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unnamed_once_stays_and_what_is_unnamed_for_long_goes() {
        let mut unnamed = Unnamed::default();
        assert!(unnamed.again(vec![1, 2]).is_empty());
        assert!(unnamed.again(vec![1]).is_empty());
        assert!(unnamed.again(vec![2, 3]).is_empty(), "not in a row");
        assert!(unnamed.again(vec![2, 3]).is_empty());
        assert_eq!(unnamed.again(vec![2]), [2]);
    }
}
