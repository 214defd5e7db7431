//! Many workers, of one slot each, in this process, against real servers: what each of them costs
//! while nothing happens, and what they get done together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bolthole_tests::bench::usage;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::fair;
use crate::line::{Counts, float, per_second, rounded};
use crate::setup::Setup;

/// How long the fleet is watched while it has nothing to do.
const IDLE: Duration = Duration::from_secs(10);
/// Between two looks at how many workers there are.
const LOOK: Duration = Duration::from_millis(100);
/// How long all of them may take to be there.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    workload: &'static str,
    workers: usize,
    /// Until all had a record in the store.
    joined_s: f64,
    /// Redis commands a second of each idle worker.
    idle_commands_per_worker: f64,
    /// The share of one core that each role takes while nothing happens.
    idle_cores: BTreeMap<&'static str, f64>,
    peak_rss_mib: BTreeMap<&'static str, Vec<u64>>,
    tasks: u32,
    task_ms: f64,
    seconds: f64,
    tasks_per_s: f64,
    /// The part of the workers' time in which tasks waited, as they should.
    efficiency: f64,
    redis_commands_per_task: f64,
    amqp_messages_per_task: f64,
    /// Processor time by role and task.
    cpu_us_per_task: BTreeMap<&'static str, f64>,
}

pub(crate) async fn run(setup: &Setup, workers: usize, tasks: u32, ms: f64) -> Result<Line> {
    let cluster = setup.cluster().context("a fleet needs servers: leave --embedded out")?;
    let store = cluster.store().await?;
    let began = Instant::now();
    let mut fleet = JoinSet::new();
    for _ in 0..workers {
        fleet.spawn(bolthole::worker::with(cluster.servers()).slots(1).run_async());
    }
    while store.workers().await?.len() < workers {
        if let Some(ended) = fleet.try_join_next() {
            ended.context("a worker panicked")?.context("a worker ended")?;
        }
        ensure!(began.elapsed() < PATIENCE, "only some of {workers} workers have come");
        tokio::time::sleep(LOOK).await;
    }
    let joined_s = rounded(began.elapsed().as_secs_f64());
    let before = Counts::read(setup)?;
    tokio::time::sleep(IDLE).await;
    let idle = Counts::read(setup)?.since(&before);
    let seconds = IDLE.as_secs_f64();
    let cores = idle.cpu_s.iter().map(|(role, used)| (*role, rounded(used / seconds)));
    let idle_cores = cores.collect();
    // Connections for results and the like are made in the first run.
    fair::one(setup.client().clone(), u32::try_from(workers)?, ms).await?;
    let before = Counts::read(setup)?;
    let took = fair::one(setup.client().clone(), tasks, ms).await?.as_secs_f64();
    let counts = Counts::read(setup)?.since(&before);
    let of_each = f64::from(tasks);
    let cpu_us = counts.cpu_s.iter().map(|(role, used)| (*role, rounded(used / of_each * 1e6)));
    let mut peak_rss_mib = setup.peaks();
    peak_rss_mib.insert("fleet", usage::peak_rss_mib(&[std::process::id()]));
    Ok(Line {
        workload: "fleet",
        workers,
        joined_s,
        idle_commands_per_worker: rounded(idle.redis_commands / seconds / float(workers as u64)),
        idle_cores,
        peak_rss_mib,
        tasks,
        task_ms: ms,
        seconds: rounded(took),
        tasks_per_s: per_second(u64::from(tasks), took),
        efficiency: rounded(of_each * ms / 1e3 / float(workers as u64) / took),
        redis_commands_per_task: rounded(counts.redis_commands / of_each),
        amqp_messages_per_task: rounded(counts.amqp_messages / of_each),
        cpu_us_per_task: cpu_us.collect(),
    })
}
