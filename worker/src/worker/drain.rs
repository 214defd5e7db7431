//! The end of a worker that is told to go.

use std::time::Duration;

use bolthole_broker::limits;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::shell::Drain;

impl Worker {
    /// Takes no more work, finishes what has begun, gives back the rest, hands on the results that
    /// only this worker has, and stops: all within `patience`. What has begun and is not finished
    /// shortly before its end is let go, for others to run. True when everything that had begun was
    /// committed.
    pub async fn drain(self, patience: Duration) -> bool {
        self.drain_unless(patience, std::future::pending()).await
    }

    /// As [`Worker::drain`], until `at_once`: then lets go of everything within a second.
    pub async fn drain_unless(self, patience: Duration, at_once: impl Future<Output = ()>) -> bool {
        let end = Instant::now() + patience;
        let reserve = limits::DRAIN_RESERVE.min(patience / 4);
        self.drain.send_replace(Drain::Finish);
        let finished = tokio::select! {
            finished = self.finish(end - reserve, end - reserve / 2) => finished,
            () = at_once => {
                self.let_go(Instant::now() + limits::DRAIN_AT_ONCE).await;
                false
            }
        };
        // A server that does not answer must not keep the process beyond its time.
        if timeout(limits::DRAIN_AT_ONCE, self.stop()).await.is_err() {
            tracing::warn!("the servers were not told in time: what they know of us runs out");
        }
        finished
    }

    /// Hands results on while tasks finish, until `finish_by`; what is left is let go, and its place
    /// taken by more results, until `leave_by`. True when all tasks have finished.
    async fn finish(&self, finish_by: Instant, leave_by: Instant) -> bool {
        let complete = CancellationToken::new();
        let tasks = async {
            let finished = self.is_drained(finish_by).await;
            if !finished {
                self.let_go(leave_by).await;
            }
            complete.cancel();
            finished
        };
        let (finished, ()) = tokio::join!(tasks, self.leaving.run(complete.clone(), leave_by));
        finished
    }

    /// What has not finished is anyone's; returns when the others are told, or at `until`.
    async fn let_go(&self, until: Instant) {
        self.drain.send_replace(Drain::LetGo);
        self.is_drained(until).await;
    }

    /// Whether nothing is left to do, waiting for it until `until`.
    async fn is_drained(&self, until: Instant) -> bool {
        let mut drained = self.drained.clone();
        let waiting = async { drained.wait_for(|drained| *drained).await.is_ok() };
        timeout_at(until, waiting).await.unwrap_or(false)
    }
}
