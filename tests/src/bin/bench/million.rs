//! A large stencil, submitted one by one while its first rows are running.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bolthole::Handle;
use bolthole_tests::bench::tasks::{spin, total};
use bolthole_tests::servers::Pair;
use serde::Serialize;

use crate::line::{float, per_second, rounded};
use crate::setup::Setup;
use crate::workload::{neighbours, stencil_expected};

/// How often Redis is asked how much it holds.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    workload: &'static str,
    cluster: bool,
    tasks: u64,
    /// From the first call to the first result.
    first_s: f64,
    /// Until all was submitted.
    submitted_s: f64,
    /// Until the last result was here.
    seconds: f64,
    tasks_per_s: f64,
    /// What Redis held at most beyond what it held before, for each task.
    redis_bytes_per_task: f64,
    peak_rss_mib: BTreeMap<&'static str, Vec<u64>>,
}

pub(crate) async fn run(setup: &Setup, width: usize, steps: usize) -> Result<Line> {
    ensure!(width > 0 && steps > 0, "a stencil has rows");
    let tasks = (width * steps + 1) as u64;
    let before = memory(setup)?;
    let run = setup.client().unnamed().open().await?;
    let began = Instant::now();
    let first = spin::submit(&run, 0, Vec::<u64>::new()).await?;
    let first_result = tokio::spawn(async move {
        let result = first.result().await;
        (first, result, began.elapsed())
    });
    let mut row: Vec<Handle<u64>> = Vec::new();
    for _ in 0..steps {
        let mut next = Vec::with_capacity(width);
        for place in 0..width {
            let before = (!row.is_empty()).then(|| neighbours(place, width));
            let inputs: Vec<_> = before.into_iter().flatten().map(|input| &row[input]).collect();
            next.push(spin::submit(&run, 0, inputs).await?);
        }
        row = next;
    }
    let sum = total::submit(&run, row).await?;
    run.close().await?;
    let submitted = began.elapsed();
    let mut held = before;
    let result = {
        let mut result = std::pin::pin!(sum.result());
        loop {
            tokio::select! {
                result = &mut result => break result?,
                () = tokio::time::sleep(POLL) => held = held.max(memory(setup)?),
            }
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    ensure!(result == stencil_expected(width, steps), "the stencil gave {result}");
    let (_first, value, first) = first_result.await.context("the first task")?;
    ensure!(value? == 1, "the first task gave something else");
    run.forget().await?;
    Ok(Line {
        workload: "million",
        cluster: setup.is_cluster(),
        tasks,
        first_s: rounded(first.as_secs_f64()),
        submitted_s: rounded(submitted.as_secs_f64()),
        seconds: rounded(seconds),
        tasks_per_s: per_second(tasks, seconds),
        redis_bytes_per_task: rounded(float(held.saturating_sub(before)) / float(tasks)),
        peak_rss_mib: setup.peaks(),
    })
}

/// What Redis holds, in bytes; 0 without one.
fn memory(setup: &Setup) -> Result<u64> {
    let Some(Pair { redis, .. }) = setup.servers() else { return Ok(0) };
    let info = redis.cli(["INFO", "memory"])?;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(line.context("Redis does not say what it holds")?.trim().parse()?)
}
