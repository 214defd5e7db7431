//! What is said of a task beside its arguments: its kind and its options.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the system may do with a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskKind {
    /// May be run again after a fault; never deduplicated.
    #[default]
    Repeatable,
    /// Its result depends on its arguments alone: equal calls are one task.
    Pure,
    /// Acts on the outside: leased before it runs, committed alone and at once, its result kept.
    Effect,
}

/// How long to wait before a failed attempt is repeated: `first`, doubled each time up to `max`,
/// each wait drawn between half of that and all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(120) }
    }
}

impl Backoff {
    /// The wait after `failures` failed attempts (1 for the first); `random` draws the jitter.
    pub fn wait(&self, failures: u32, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << failures.saturating_sub(1).min(20));
        let full = doubled.min(self.max);
        let half = full / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(if nanos == 0 { 0 } else { random % (nanos + 1) })
    }
}

/// Options of a task: the attribute gives them for the function, the call may change them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskOptions {
    /// Attempts after the first that fails with an error of the user's.
    pub retries: u32,
    /// The waits between them.
    pub backoff: Backoff,
    /// The longest that one attempt may run.
    pub timeout: Option<Duration>,
    /// The queue whose workers run it.
    pub queue: String,
    /// Higher runs first among what is ready.
    pub priority: i8,
    /// Named amounts a worker must have free to run it.
    pub resources: BTreeMap<String, u32>,
    /// Attempts of the task that may run at once in all workers of the namespace, if that is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Not to be started earlier: milliseconds since 1970, by the store's clock.
    pub not_before_ms: Option<u64>,
    /// Not to be started later: milliseconds since 1970, by the store's clock.
    pub expires_ms: Option<u64>,
    /// Whether its attempts run in a process of their own, which a time limit or a cancellation
    /// kills and which dies alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Shown instead of the function's name.
    pub name: Option<String>,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            retries: 0,
            backoff: Backoff::default(),
            timeout: None,
            queue: DEFAULT_QUEUE.to_owned(),
            priority: 0,
            resources: BTreeMap::new(),
            concurrency: None,
            not_before_ms: None,
            expires_ms: None,
            isolated: false,
            name: None,
        }
    }
}

/// The queue of tasks that name none.
pub const DEFAULT_QUEUE: &str = "default";

/// All that calls of one function with the same options share. Stands once in a descriptor chunk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskClass {
    /// The function's registered name, such as `etl::load`.
    pub task: String,
    /// Its parameter and return types as the client compiled them.
    pub signature: String,
    /// Its kind.
    pub kind: TaskKind,
    /// Its options.
    pub options: TaskOptions,
}

/// The built-in task that hands on its only input: a node of a relay tree.
pub const RELAY: &str = "bolthole::relay";

impl TaskClass {
    /// The class of relays in `queue`.
    pub fn relay(queue: &str) -> Self {
        Self {
            task: RELAY.to_owned(),
            signature: String::new(),
            kind: TaskKind::Pure,
            options: TaskOptions { queue: queue.to_owned(), ..TaskOptions::default() },
        }
    }

    /// What people read: the last part of the name, or the name given to the call.
    pub fn label(&self) -> &str {
        let own = self.options.name.as_deref();
        own.unwrap_or_else(|| self.task.rsplit("::").next().unwrap_or(&self.task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_stays_in_the_upper_half() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(5) };
        assert_eq!(backoff.wait(1, 0), Duration::from_millis(500));
        assert_eq!(backoff.wait(3, 0), Duration::from_secs(2));
        for random in [0, 1, u64::MAX / 3, u64::MAX] {
            let wait = backoff.wait(40, random);
            assert!(wait >= Duration::from_millis(2500) && wait <= Duration::from_secs(5));
        }
    }
}
