//! Where the futures of a worker run: beside each other on its runtime, and in a simulation as parts
//! of one process, which can be stopped and killed.

use std::future::Future;

use tokio_util::task::TaskTracker;

use crate::simulate::Process;

/// Spawns the futures of a worker. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    process: Option<Process>,
}

impl Tasks {
    /// Of a worker with this process, if it is simulated.
    pub(crate) fn new(process: Option<Process>) -> Self {
        Self { tracker: TaskTracker::new(), process }
    }

    /// Others of the same worker, waited for apart.
    pub(crate) fn beside(&self) -> Self {
        Self::new(self.process.clone())
    }

    /// Runs a future to its end.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &self.process {
            None => drop(self.tracker.spawn(future)),
            Some(process) => drop(self.tracker.spawn(process.clone().run(future))),
        }
    }

    /// Whether they still take steps, or may again.
    pub(crate) fn are_alive(&self) -> bool {
        self.process.as_ref().is_none_or(Process::is_alive)
    }

    /// No more will come, and [`Self::wait`] may return.
    pub(crate) fn close(&self) {
        self.tracker.close();
    }

    /// Waits until all have ended.
    pub(crate) async fn wait(&self) {
        self.tracker.wait().await;
    }
}
