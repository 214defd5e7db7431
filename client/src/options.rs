//! Options of one call, laid over those of its task's attribute.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bolthole_broker::task::{Backoff, TaskOptions};

/// A point in time: so long after the graph is submitted, or by the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// After the graph is submitted.
    After(Duration),
    /// By the calendar.
    At(SystemTime),
}

impl From<Duration> for When {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

impl From<SystemTime> for When {
    fn from(at: SystemTime) -> Self {
        Self::At(at)
    }
}

impl When {
    /// Milliseconds since 1970, for a graph submitted at `now_ms`.
    pub(crate) fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::After(after) => now_ms.saturating_add(millis(after)),
            Self::At(at) => millis(at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What one call changes; `None` leaves what the attribute says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct CallOptions {
    pub(crate) retries: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue: Option<String>,
    pub(crate) priority: Option<i8>,
    pub(crate) resources: BTreeMap<String, u32>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) not_before: Option<When>,
    pub(crate) expires: Option<When>,
    pub(crate) isolated: bool,
    pub(crate) name: Option<String>,
}

impl CallOptions {
    /// The options of a call whose attribute says `base`, in a graph submitted at `now_ms`.
    pub(crate) fn over(&self, mut base: TaskOptions, now_ms: u64) -> TaskOptions {
        base.retries = self.retries.unwrap_or(base.retries);
        base.backoff = self.backoff.unwrap_or(base.backoff);
        base.timeout = self.timeout.or(base.timeout);
        base.priority = self.priority.unwrap_or(base.priority);
        if let Some(queue) = &self.queue {
            base.queue.clone_from(queue);
        }
        base.resources.extend(self.resources.iter().map(|(name, n)| (name.clone(), *n)));
        base.concurrency = self.concurrency.or(base.concurrency);
        base.not_before_ms = self.not_before.map(|at| at.unix_ms(now_ms)).or(base.not_before_ms);
        base.expires_ms = self.expires.map(|at| at.unix_ms(now_ms)).or(base.expires_ms);
        base.isolated |= self.isolated;
        base.name = self.name.clone().or(base.name);
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_changes_only_what_it_names() {
        let base = TaskOptions {
            retries: 3,
            queue: "gpu".into(),
            resources: BTreeMap::from([("gpu".into(), 1)]),
            ..TaskOptions::default()
        };
        assert_eq!(CallOptions::default().over(base.clone(), 5), base);
        let call = CallOptions {
            retries: Some(0),
            resources: BTreeMap::from([("ram".into(), 2)]),
            not_before: Some(Duration::from_secs(1).into()),
            expires: Some((UNIX_EPOCH + Duration::from_secs(9)).into()),
            ..CallOptions::default()
        };
        let over = call.over(base, 5);
        assert_eq!((over.retries, over.queue.as_str()), (0, "gpu"));
        assert_eq!(over.resources, BTreeMap::from([("gpu".into(), 1), ("ram".into(), 2)]));
        assert_eq!((over.not_before_ms, over.expires_ms), (Some(1005), Some(9000)));
    }
}
