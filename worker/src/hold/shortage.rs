//! What the system refuses to this process for the moment: files, connections, space on its disk.
//! Nothing is lost by it, for all of it is tried again; while it lasts the worker is not ready.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bolthole_broker::limits::SHORTAGE_LOG_EVERY;
use tokio::time::Instant;

use super::Held;

/// How long after the last refusal the worker is not ready: longer than the pauses between tries.
const LASTS: Duration = Duration::from_secs(3);

/// What was refused, by what it was for.
#[derive(Debug, Default)]
pub(super) struct Shortages(Mutex<HashMap<&'static str, Shortage>>);

#[derive(Debug)]
struct Shortage {
    times: u64,
    last: Instant,
    said: Instant,
    error: String,
}

impl Held {
    /// The system has refused something for `what`. Logged the first time and then once in a while,
    /// however often it happens.
    pub(crate) fn refused(&self, what: &'static str, error: &impl Display) {
        let now = Instant::now();
        let mut all = self.inner.shortages.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = all.entry(what).or_insert_with(|| {
            tracing::warn!(%error, "the system refuses {what}; trying again");
            Shortage { times: 0, last: now, said: now, error: String::new() }
        });
        one.times += 1;
        one.last = now;
        one.error = error.to_string();
        if now >= one.said + SHORTAGE_LOG_EVERY {
            one.said = now;
            tracing::warn!(%error, times = one.times, "the system still refuses {what}; trying again");
        }
    }

    /// What the system refuses now.
    pub(crate) fn shortages(&self) -> Vec<String> {
        let all = self.inner.shortages.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = all.iter().filter(|(_, one)| one.last.elapsed() < LASTS);
        now.map(|(what, one)| format!("the system refuses {what}: {}", one.error)).collect()
    }

    /// How often it has refused something.
    pub(crate) fn shortage_count(&self) -> u64 {
        let all = self.inner.shortages.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|one| one.times).sum()
    }
}
