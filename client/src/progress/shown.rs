//! The task of the runtime that reads and shows.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counts::Counts;
use super::display::Display;
use crate::run::RunInner;

/// The shortest time between two looks: faster is not seen.
const INTERVAL: Duration = Duration::from_millis(100);
/// Looking takes no more than one part in so many of the time.
const SHARE: u32 = 20;

/// Shows how a run gets on until it is dropped.
pub(crate) struct Progress {
    shown: Option<(JoinHandle<()>, DropGuard)>,
}

impl Progress {
    /// Starts showing, if wanted.
    pub(crate) fn start(run: &Arc<RunInner>, wanted: bool) -> Self {
        let shown = wanted.then(|| {
            let stop = CancellationToken::new();
            let counts = Counts::new(run.id, run.core.store.clone());
            (run.core.runtime.spawn(show(counts, stop.clone())), stop.drop_guard())
        });
        Self { shown }
    }

    /// Shows the end.
    pub(crate) async fn finish(self) {
        if let Some((task, stop)) = self.shown {
            drop(stop);
            // It fails only when the runtime ends, and then nobody looks.
            let _ = task.await;
        }
    }
}

async fn show(mut counts: Counts, stop: CancellationToken) {
    let mut display = Display::new();
    let mut pause = INTERVAL;
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = sleep(pause) => false,
        };
        let started = Instant::now();
        match counts.refresh().await {
            Ok(()) => display.show(counts.labels()),
            Err(error) => tracing::debug!(%error, "cannot look how the run gets on"),
        }
        if stopped {
            return display.finish();
        }
        pause = INTERVAL.max(started.elapsed() * SHARE);
    }
}
