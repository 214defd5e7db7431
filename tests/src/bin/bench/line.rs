//! What is printed: one line of JSON for each workload.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bolthole_tests::bench::usage;
use bolthole_tests::servers::{Pair, RabbitServer};
use serde::Serialize;

use crate::live::Live;
use crate::setup::Setup;

/// A workload that was run as a whole.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) workload: String,
    pub(crate) size: String,
    pub(crate) cluster: bool,
    pub(crate) workers: u32,
    pub(crate) slots: u32,
    pub(crate) seconds: Vec<f64>,
    pub(crate) median_s: f64,
    pub(crate) tasks: u64,
    pub(crate) tasks_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mib_per_s: Option<f64>,
    /// The critical-path-first list schedule on ideal slots, and what no schedule is shorter than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) schedule_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bound_s: Option<f64>,
    /// By what share of that schedule it took longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) over_schedule: Option<f64>,
    pub(crate) peak_rss_mib: BTreeMap<&'static str, Vec<u64>>,
    pub(crate) live: Vec<Live>,
    pub(crate) per_run: Counts,
    pub(crate) per_task: PerTask,
}

/// One task after the other on an idle system.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) workload: String,
    pub(crate) size: String,
    pub(crate) cluster: bool,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p50_runs: Vec<f64>,
    pub(crate) peak_rss_mib: BTreeMap<&'static str, Vec<u64>>,
    pub(crate) per_task: PerTask,
}

/// What was used so far, or between two readings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Counts {
    pub(crate) cpu_s: BTreeMap<&'static str, f64>,
    /// Functions that were called: one round trip each.
    pub(crate) redis_calls: f64,
    /// All commands, also those that functions gave.
    pub(crate) redis_commands: f64,
    pub(crate) redis_bytes: f64,
    /// Messages that clients and workers gave to RabbitMQ and got from it.
    pub(crate) amqp_messages: f64,
}

/// The same for one task.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PerTask {
    pub(crate) cpu_us: f64,
    pub(crate) redis_calls: f64,
    pub(crate) redis_commands: f64,
    pub(crate) redis_bytes: f64,
    pub(crate) amqp_messages: f64,
}

impl Counts {
    /// Reads the counters of servers and processes.
    pub(crate) fn read(setup: &Setup) -> Result<Self> {
        let roles = setup.roles().into_iter();
        let cpu_s = roles.map(|(role, processes)| (role, usage::cpu_s(&processes))).collect();
        let none = Self {
            cpu_s,
            redis_calls: 0.0,
            redis_commands: 0.0,
            redis_bytes: 0.0,
            amqp_messages: 0.0,
        };
        let Some(Pair { redis, rabbit }) = setup.servers() else { return Ok(none) };
        let commands = redis.cli(["INFO", "commandstats"])?;
        let calls = |name: &str| -> Option<f64> {
            // cmdstat_fcall:calls=12,usec=34,…
            let line = commands.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(":calls=")?.split(',').next()?.parse().ok()
        };
        let called = ["cmdstat_fcall", "cmdstat_fcall_ro"].map(calls);
        let redis_calls = called.into_iter().flatten().sum();
        let stats = redis.cli(["INFO", "stats"])?;
        let number = |name: &str| -> Result<f64> {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.with_context(|| format!("Redis says nothing of {name}"))?.trim().parse()?)
        };
        let redis_commands = number("total_commands_processed:")?;
        let redis_bytes = number("total_net_input_bytes:")? + number("total_net_output_bytes:")?;
        let amqp_messages = amqp_messages(rabbit)?;
        Ok(Self { redis_calls, redis_commands, redis_bytes, amqp_messages, ..none })
    }

    /// What was used since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |role| before.cpu_s.get(role).copied().unwrap_or_default();
        Self {
            cpu_s: self.cpu_s.iter().map(|(role, now)| (*role, now - earlier(role))).collect(),
            redis_calls: self.redis_calls - before.redis_calls,
            redis_commands: self.redis_commands - before.redis_commands,
            redis_bytes: self.redis_bytes - before.redis_bytes,
            amqp_messages: self.amqp_messages - before.amqp_messages,
        }
    }

    /// The mean over so many runs.
    pub(crate) fn each(&self, runs: usize) -> Self {
        let each = 1.0 / float(runs.max(1) as u64);
        Self {
            cpu_s: self.cpu_s.iter().map(|(role, all)| (*role, rounded(all * each))).collect(),
            redis_calls: self.redis_calls * each,
            redis_commands: self.redis_commands * each,
            redis_bytes: self.redis_bytes * each,
            amqp_messages: self.amqp_messages * each,
        }
    }

    /// The share of one of so many tasks.
    pub(crate) fn per_task(&self, tasks: u64) -> PerTask {
        let tasks = float(tasks.max(1));
        PerTask {
            cpu_us: rounded(self.cpu_s.values().sum::<f64>() * 1e6 / tasks),
            redis_calls: rounded(self.redis_calls / tasks),
            redis_commands: rounded(self.redis_commands / tasks),
            redis_bytes: rounded(self.redis_bytes / tasks),
            amqp_messages: rounded(self.amqp_messages / tasks),
        }
    }
}

/// What RabbitMQ has counted since it started.
fn amqp_messages(rabbit: &RabbitServer) -> Result<f64> {
    let both = "lists:sum([maps:get(K, C, 0) || C <- maps:values(rabbit_global_counters:overview()), \
                K <- [messages_received_total, messages_delivered_total]]).";
    Ok(rabbit.ctl(["eval", both])?.trim().parse()?)
}

/// To three decimal places.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// How many a second.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    (float(count) / seconds).round()
}

/// The one in the middle, or the mean of the two; 0 for none.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    let (low, high) = (numbers.len().saturating_sub(1) / 2, numbers.len() / 2);
    let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
    f64::midpoint(at(low), at(high))
}

/// The time, in milliseconds, that this share of the sorted `times` does not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list, between its ends"
)]
pub(crate) fn quantile_ms(times: &[Duration], share: f64) -> f64 {
    let place = (float(times.len() as u64) * share) as usize;
    let time = times.get(place.min(times.len().saturating_sub(1)));
    rounded(time.copied().unwrap_or_default().as_secs_f64() * 1e3)
}

/// Writes one line to standard output.
#[expect(clippy::print_stdout, reason = "the measurements go to standard output")]
pub(crate) fn print(line: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(line)?);
    Ok(())
}
