//! Small runs, one after the other, behind a large one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bolthole::Client;
use bolthole_tests::bench::tasks::load;
use serde::Serialize;

use crate::line::{quantile_ms, rounded};
use crate::setup::Setup;

/// Small runs that are measured without the large one.
const ALONE: u32 = 20;
/// Between two small runs.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    workload: &'static str,
    cluster: bool,
    large_tasks: u32,
    small_tasks: u32,
    task_ms: f64,
    /// A small run with nothing else.
    alone_p50_ms: f64,
    /// Small runs that were submitted while the large one ran, and how long they took.
    behind: usize,
    behind_p50_ms: f64,
    behind_max_ms: f64,
    /// How long the large run took, and what it would have taken alone.
    large_s: f64,
    large_alone_s: f64,
}

/// A run of `large` tasks and, as long as it lasts, runs of `small` ones; each takes `ms`.
pub(crate) async fn run(setup: &Setup, large: u32, small: u32, ms: f64) -> Result<Line> {
    ensure!(large > 0 && small > 0, "a run has tasks");
    let client = setup.client();
    let mut alone = Vec::new();
    for _ in 0..ALONE {
        alone.push(one(client.clone(), small, ms).await?);
    }
    let large_alone = one(client.clone(), large, ms).await?;
    let mut whole = tokio::spawn(one(client.clone(), large, ms));
    let mut behind = Vec::new();
    let large_took = loop {
        tokio::select! {
            took = &mut whole => break took??,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let took = one(client.clone(), small, ms).await?;
        if !whole.is_finished() {
            behind.push(took);
        }
    };
    ensure!(!behind.is_empty(), "the large run was over before a small one: make it larger");
    alone.sort_unstable();
    behind.sort_unstable();
    Ok(Line {
        workload: "fair",
        cluster: setup.is_cluster(),
        large_tasks: large,
        small_tasks: small,
        task_ms: ms,
        alone_p50_ms: quantile_ms(&alone, 0.5),
        behind: behind.len(),
        behind_p50_ms: quantile_ms(&behind, 0.5),
        behind_max_ms: quantile_ms(&behind, 1.0),
        large_s: rounded(large_took.as_secs_f64()),
        large_alone_s: rounded(large_alone.as_secs_f64()),
    })
}

/// A run of so many tasks, from the first call to the last result.
pub(crate) async fn one(client: Client, tasks: u32, ms: f64) -> Result<Duration> {
    let began = Instant::now();
    let calls: Vec<_> = (0..tasks).map(|file| load::delayed(i64::from(file), ms / 1e3)).collect();
    let sum: i64 = client.compute(calls).await?.into_iter().sum();
    let tasks = i64::from(tasks);
    ensure!(sum == tasks * (tasks - 1) / 2, "{tasks} tasks gave {sum} in all");
    Ok(began.elapsed())
}
