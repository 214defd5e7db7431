//! What a worker tells its operators: counters of the loop, and whether it is well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::health::Vitals;
use crate::hold::{Held, Pressure};
use crate::metrics::{Labelled, Metrics, Number};

/// A loop that has not come round for this long is stuck: a restart helps.
const LOOP_STUCK: Duration = Duration::from_secs(30);

/// Figures of one worker. Clones share them.
#[derive(Clone)]
pub(crate) struct Pulse {
    pub(crate) metrics: Metrics,
    pub(crate) parcels: Number,
    pub(crate) started: Number,
    pub(crate) committed: Number,
    pub(crate) commits: Number,
    pub(crate) superseded: Number,
    pub(crate) retries: Number,
    pub(crate) differing: Number,
    pub(crate) published: Number,
    pub(crate) unpublished: Number,
    pub(crate) shared: Number,
    pub(crate) fetched_bytes: Number,
    pub(crate) parked: Number,
    pub(crate) dead_letters: Number,
    pub(crate) failed: Labelled,
    /// Cancelled when too many threads are stuck in bodies: the process must be replaced.
    pub(crate) worn_out: CancellationToken,
    state: Arc<State>,
}

struct State {
    held: Held,
    born: Instant,
    /// When the loop last came round, in milliseconds after `born`.
    beat_ms: AtomicU64,
    consuming: AtomicBool,
    draining: AtomicBool,
    /// What the store last said when it did not answer.
    store: Mutex<Option<String>>,
}

impl Pulse {
    pub(crate) fn new(held: Held) -> Self {
        let metrics = Metrics::default();
        let counter = |name, help| metrics.counter(name, help);
        let state = State {
            held,
            born: Instant::now(),
            beat_ms: AtomicU64::new(0),
            consuming: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            store: Mutex::new(None),
        };
        Self {
            parcels: counter("bolthole_parcels_received_total", "Messages taken from the queue."),
            started: counter("bolthole_tasks_started_total", "Attempts that were given to slots."),
            committed: counter(
                "bolthole_tasks_committed_total",
                "Tasks that commits of this worker finished.",
            ),
            commits: counter("bolthole_commits_total", "Commits that were written."),
            superseded: counter(
                "bolthole_commits_superseded_total",
                "Commits that lost a race and wrote nothing.",
            ),
            differing: counter(
                "bolthole_results_differing_total",
                "Lost results that were used, computed again, and came out different.",
            ),
            retries: counter(
                "bolthole_task_retries_total",
                "Failed attempts that will be repeated.",
            ),
            published: counter("bolthole_tasks_published_total", "Ready tasks that were rung for."),
            unpublished: counter(
                "bolthole_tasks_unpublished_total",
                "Ready tasks whose message the queue did not take; reconciling rings for them.",
            ),
            shared: counter(
                "bolthole_tasks_shared_total",
                "Tasks that waited here and were given to workers that had none.",
            ),
            fetched_bytes: counter(
                "bolthole_fetched_bytes_total",
                "Bytes of results that came from other workers.",
            ),
            parked: counter(
                "bolthole_tasks_parked_total",
                "Tasks that this build could not run or that were not due.",
            ),
            dead_letters: counter(
                "bolthole_dead_letters_total",
                "Messages that could not be read.",
            ),
            failed: metrics.counters(
                "bolthole_tasks_failed_total",
                "Tasks that have failed.",
                "task",
            ),
            metrics,
            worn_out: CancellationToken::new(),
            state: Arc::new(state),
        }
    }

    /// The loop has come round.
    pub(crate) fn beat(&self) {
        let elapsed = self.state.born.elapsed().as_millis();
        self.state.beat_ms.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A session with the queue has begun or ended.
    pub(crate) fn consuming(&self, now: bool) {
        self.state.consuming.store(now, Ordering::Relaxed);
    }

    /// No new work is taken.
    pub(crate) fn draining(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the store answered, and what was said when it did not.
    pub(crate) fn store(&self, trouble: Option<String>) {
        *self.state.store.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl Vitals for Pulse {
    fn dead(&self) -> Vec<String> {
        let beat = Duration::from_millis(self.state.beat_ms.load(Ordering::Relaxed));
        let silent = self.state.born.elapsed().saturating_sub(beat);
        if silent < LOOP_STUCK {
            return Vec::new();
        }
        vec![format!("the worker's loop has been silent for {} s", silent.as_secs())]
    }

    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.state.draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        } else if !self.state.consuming.load(Ordering::Relaxed) {
            reasons.push("no session with the queue".to_owned());
        }
        reasons.extend(self.state.store.lock().unwrap_or_else(PoisonError::into_inner).clone());
        if self.state.held.pressure() == Pressure::Critical {
            reasons.push("memory is nearly used up".to_owned());
        }
        reasons.extend(self.state.held.shortages());
        reasons
    }

    fn refresh(&self, metrics: &Metrics) {
        let stats = self.state.held.stats();
        let gauge = |name, help, value| metrics.gauge(name, help).set(value);
        gauge("bolthole_held_results", "Results held, in memory or on disk.", stats.count);
        gauge("bolthole_held_memory_bytes", "Memory that held results take.", stats.memory_bytes);
        gauge("bolthole_held_spilled_bytes", "Results on disk only.", stats.spilled_bytes);
        gauge("bolthole_held_peak_bytes", "The most bytes of results so far.", stats.peak_bytes);
        gauge("bolthole_spills", "Results written to disk so far.", stats.spills);
        let refusals = self.state.held.shortage_count();
        gauge("bolthole_refusals", "Files, connections and disk space not given.", refusals);
        gauge("bolthole_spill_errors", "Writes that the disk refused.", stats.spill_errors);
        gauge("bolthole_spill_losses", "Results that could not be read back.", stats.spill_losses);
    }
}
