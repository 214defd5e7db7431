//! What things are called on the broker: user queues, and the objects behind them.
//!
//! Names carry the version (`bh.v1`), because a queue's arguments can never change in place, and
//! the namespace, because several systems may share one virtual host.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::route::Route;

/// Longest name of a user queue or a namespace, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// How long the delay queues hold a message: the classes `publish_delayed` chooses from.
pub const DELAYS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// The class of delay for a wish: the longest that does not exceed it, or the shortest there is.
pub(crate) fn delay_class(wish: Duration) -> Duration {
    DELAYS.into_iter().rev().find(|class| *class <= wish).unwrap_or(DELAYS[0])
}

/// A text that cannot name a queue or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 64 of A-Z, a-z, 0-9, _ and -, not {0:?}: choose another")]
pub struct BadName(String);

impl BadName {
    fn new(text: &str) -> Self {
        Self(text.chars().take(80).collect())
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The name of a user queue: 1 to 64 of `A-Z a-z 0-9 _ -`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Checks and takes a name.
    pub fn new(text: &str) -> Result<Self, BadName> {
        if is_name(text) { Ok(Self(text.into())) } else { Err(BadName::new(text)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for QueueName {
    /// The queue of tasks that name none: `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueName({})", self.0)
    }
}

impl FromStr for QueueName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::new(text)
    }
}

impl TryFrom<String> for QueueName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        Self::new(&text)
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.0.as_ref().into()
    }
}

/// The broker objects of one namespace, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// `bh.v1`, or `<namespace>.bh.v1`.
    root: Arc<str>,
    /// Whether queues that processes share have copies on several hosts of the broker.
    quorum: bool,
}

impl Default for Names {
    /// The names of the empty namespace.
    fn default() -> Self {
        Self { root: "bh.v1".into(), quorum: false }
    }
}

impl Names {
    /// The names of a namespace; the empty one has no prefix.
    pub(crate) fn new(namespace: &str) -> Result<Self, BadName> {
        match namespace {
            "" => Ok(Self::default()),
            name if is_name(name) => {
                Ok(Self { root: format!("{name}.bh.v1").into(), quorum: false })
            }
            other => Err(BadName::new(other)),
        }
    }

    /// The same names of queues of one kind.
    pub(crate) fn of_kind(self, quorum: bool) -> Self {
        Self { quorum, ..self }
    }

    /// The kind of queues that processes share, as the broker calls it.
    pub(crate) fn kind(&self) -> &'static str {
        if self.quorum { "quorum" } else { "classic" }
    }

    /// The direct exchange through which everything but control messages goes.
    pub(crate) fn exchange(&self) -> &str {
        &self.root
    }

    /// The fanout exchange of control messages.
    pub(crate) fn control_exchange(&self) -> String {
        format!("{}.ctl", self.root)
    }

    /// The control queue of one consumer.
    pub(crate) fn control_queue(&self, random: u64) -> String {
        format!("{}.ctl.{random:016x}", self.root)
    }

    /// The queue (and routing key) of a lane.
    pub(crate) fn lane(&self, route: &Route) -> String {
        format!("{}.{route}", self.root)
    }

    /// The queue (and routing key) that holds messages for a lane back.
    pub(crate) fn delay(&self, route: &Route, class: Duration) -> String {
        format!("{}.{route}.delay.{}ms", self.root, class.as_millis())
    }

    /// The queue (and routing key) in which one session of a consumer keeps its presence.
    pub(crate) fn presence(&self, random: u64) -> String {
        format!("{}.presence.{random:016x}", self.root)
    }

    /// The queue (and routing key) that tells of consumers which are gone.
    pub(crate) fn absent(&self) -> String {
        format!("{}.absent", self.root)
    }

    /// The queue (and routing key) of messages that could not be used.
    pub(crate) fn dead(&self) -> String {
        format!("{}.dead", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Level;

    #[test]
    fn names_are_checked() {
        for good in ["a", "etl-2_B", &"x".repeat(64)] {
            assert_eq!(QueueName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(QueueName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_carry_version_and_namespace() {
        let route = Route::hi(&QueueName::new("etl").unwrap());
        let plain = Names::new("").unwrap();
        assert_eq!(plain.exchange(), "bh.v1");
        assert_eq!(plain.lane(&route), "bh.v1.etl.hi");
        assert_eq!(plain.lane(&route.clone().at(Level::Third)), "bh.v1.etl.hi.3");
        assert_eq!(plain.delay(&route, DELAYS[0]), "bh.v1.etl.hi.delay.100ms");
        let spaced = Names::new("team-a").unwrap();
        assert_eq!(spaced.lane(&route), "team-a.bh.v1.etl.hi");
        assert_eq!(spaced.dead(), "team-a.bh.v1.dead");
        assert_eq!(spaced.control_exchange(), "team-a.bh.v1.ctl");
        assert!(Names::new("a.b").is_err());
    }

    #[test]
    fn a_delay_is_the_longest_class_within_the_wish() {
        let class = |ms| delay_class(Duration::from_millis(ms)).as_millis();
        assert_eq!(class(0), 100);
        assert_eq!(class(999), 100);
        assert_eq!(class(1_000), 1_000);
        assert_eq!(class(59_999), 10_000);
        assert_eq!(class(3_600_000), 60_000);
    }
}
