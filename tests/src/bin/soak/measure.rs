//! What processes and servers take, second by second.

use std::fmt;

use anyhow::{Context as _, Result};
use bolthole_tests::cluster::{Cluster, Member};
use bolthole_tests::servers::Pair;
use bolthole_tests::trend::{Trend, open_files, resident_kib};
use tokio::time::{Duration, sleep};

/// The share of the time in which caches fill and first connections are made.
const WARM_UP: f64 = 0.25;
/// Growth that no leak is needed for: KiB of memory, open files, keys.
const SLACK_KIB: f64 = 8_192.0;
const SLACK_FILES: f64 = 8.0;
const SLACK_KEYS: f64 = 64.0;
/// How long after the last run everything of it must be gone.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// A number that must not grow.
struct Watched {
    name: &'static str,
    slack: f64,
    trend: Trend,
}

/// Everything that is watched.
pub(crate) struct Measure {
    pids: [(u32, Watched, Watched); 2],
    redis_kib: Watched,
    keys: Watched,
}

impl Measure {
    pub(crate) fn new(steady: &Member, servers: &Pair) -> Result<Self> {
        let watched = |name, slack| Watched { name, slack, trend: Trend::default() };
        servers.redis.pid().context("Redis is up")?;
        Ok(Self {
            pids: [
                (
                    steady.id(),
                    watched("a worker's memory, KiB", SLACK_KIB),
                    watched("a worker's open files", SLACK_FILES),
                ),
                (
                    std::process::id(),
                    watched("the client's memory, KiB", SLACK_KIB),
                    watched("the client's open files", SLACK_FILES),
                ),
            ],
            redis_kib: watched("the memory of Redis, KiB", SLACK_KIB),
            keys: watched("keys in Redis", SLACK_KEYS),
        })
    }

    /// Reads all numbers; those of a server that is away are left out.
    pub(crate) fn read(&mut self, servers: &Pair) {
        for (pid, memory, files) in &mut self.pids {
            memory.trend.push(resident_kib(*pid));
            files.trend.push(open_files(*pid));
        }
        if let Some(pid) = servers.redis.pid() {
            self.redis_kib.trend.push(resident_kib(pid));
        }
        if let Ok(keys) = servers.redis.cli(["DBSIZE"])
            && let Ok(keys) = keys.trim().parse()
        {
            self.keys.trend.push(keys);
        }
    }

    /// The numbers, and whether all of them are flat.
    pub(crate) fn report(&self) -> (String, bool) {
        let of_processes = self.pids.iter().flat_map(|(_, memory, files)| [memory, files]);
        let all: Vec<&Watched> = of_processes.chain([&self.redis_kib, &self.keys]).collect();
        let (mut lines, mut flat) = (Vec::new(), true);
        for watched in all {
            let growth = watched.trend.growth(WARM_UP);
            let is_flat = growth.is_flat(watched.slack);
            flat &= is_flat;
            let mark = if is_flat { "flat " } else { "GROWS" };
            lines.push(format!("{mark}  {:28}  {growth}", watched.name));
        }
        (lines.join("\n"), flat)
    }
}

/// What is there some seconds after the last run.
pub(crate) struct Left {
    keys: Vec<String>,
    messages: u64,
}

impl Left {
    pub(crate) fn is_nothing(&self) -> bool {
        self.keys.is_empty() && self.messages == 0
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys that stay, {} messages", self.keys.len(), self.messages)?;
        self.keys.iter().take(5).try_for_each(|key| write!(f, " {key}"))
    }
}

/// Keys of runs without an end of their own, and messages in queues.
pub(crate) async fn left_behind(cluster: &Cluster, servers: &Pair) -> Result<Left> {
    sleep(GONE_AFTER).await;
    let mut keys = cluster.keys_of_runs(servers)?;
    keys.retain(|key| servers.redis.cli(["PTTL", key]).is_ok_and(|ttl| ttl.trim() == "-1"));
    let messages = cluster.messages(servers)?.values().sum();
    Ok(Left { keys, messages })
}
