//! The life of a run, as its client and its workers steer it.

use super::Memory;
#[cfg(feature = "failpoints")]
use crate::audit::Call;
use crate::id::RunId;
use crate::run::spec::Run;
use crate::state::RunState;
use crate::store::Error;

#[allow(clippy::unused_async, reason = "every store has the same asynchronous methods")]
impl Memory {
    pub(in crate::store) async fn resume(&self, run: RunId) -> Result<Option<RunState>, Error> {
        Ok(change!(self, run, Run::resume, |state| Call::Steer(*state)))
    }

    pub(in crate::store) async fn close(&self, run: RunId) -> Result<Option<RunState>, Error> {
        self.close_whole(run, 0).await
    }

    pub(in crate::store) async fn close_whole(
        &self,
        run: RunId,
        segments: u32,
    ) -> Result<Option<RunState>, Error> {
        let act = |run: &mut Run, now_ms| run.close(segments, now_ms);
        let closed = change!(self, run, act, |closed| match closed {
            Ok(state) => Call::Steer(*state),
            Err(_) => Call::Refused("close".to_owned()),
        });
        Ok(closed.transpose()?)
    }

    pub(in crate::store) async fn cancel(
        &self,
        run: RunId,
        reason: &str,
    ) -> Result<Option<RunState>, Error> {
        let act = |run: &mut Run, now_ms| run.cancel(reason, now_ms);
        Ok(change!(self, run, act, |state| Call::Steer(*state)))
    }

    pub(in crate::store) async fn keep_alive(&self, run: RunId) -> Result<Option<RunState>, Error> {
        Ok(self.change(run, Run::keep_alive))
    }

    pub(in crate::store) async fn reap(&self, runs: &[RunId]) -> Result<Vec<bool>, Error> {
        let has_ended = |run: &Run| !run.state().is_running();
        Ok(runs.iter().map(|run| self.purge_if(*run, has_ended)).collect())
    }

    pub(in crate::store) async fn purge(&self, run: RunId) -> Result<(), Error> {
        self.purge_if(run, |_| true);
        Ok(())
    }

    /// Deletes a run that is as it should be; whether it is gone.
    fn purge_if(&self, run: RunId, is_so: impl Fn(&Run) -> bool) -> bool {
        let mut state = self.state();
        if state.runs.get(&run).is_some_and(|run| !is_so(run)) {
            return false;
        }
        state.runs.remove(&run);
        state.names.retain(|_, named| *named != run);
        state.blobs.retain(|(owner, _), _| *owner != run);
        state.locks.remove(&run);
        drop(state);
        self.shared.changed.notify_waiters();
        true
    }
}
