//! The audit: what the functions in Redis write to a stream, in builds for tests.

use super::{Memory, State};
use crate::audit::{Call, Entry};
use crate::id::RunId;
use crate::run::spec::Run;
use crate::store::Error;

#[allow(clippy::unused_async, reason = "every store has the same asynchronous methods")]
impl Memory {
    /// From now on every change is written down. What a restored snapshot does not know is neither
    /// in the store nor in the audit.
    pub(in crate::store) async fn start_audit(&self) -> Result<(), Error> {
        self.state().audit.get_or_insert_default();
        Ok(())
    }

    /// All that was written down so far.
    pub(in crate::store) async fn audit(&self) -> Result<Vec<Entry>, Error> {
        Ok(self.state().audit.clone().unwrap_or_default())
    }

    /// Changes a run and writes it down.
    pub(super) fn change_audited<R>(
        &self,
        id: RunId,
        act: impl FnOnce(&mut Run, u64) -> R,
        call: impl FnOnce(&R) -> Call,
    ) -> Option<R> {
        let at_ms = self.now_ms();
        let mut state = self.state();
        let State { runs, audit, .. } = &mut *state;
        let reply = runs.get_mut(&id).map(|run| {
            let Some(entries) = audit else { return act(run, at_ms) };
            let before = run.clone();
            let reply = act(run, at_ms);
            let wrote = *run != before;
            entries.push(Entry { run: id, at_ms, wrote, call: call(&reply) });
            reply
        });
        drop(state);
        self.shared.changed.notify_waiters();
        reply
    }
}
