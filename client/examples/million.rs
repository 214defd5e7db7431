//! A million tasks in one run, submitted one by one while the first ones are running already, their
//! results summed as they come. Says how long it took and what memory this process took at most.
//!
//! ```text
//! cargo run --release --example million                  # in this process
//! cargo run --release --example million -- --worker      # a worker of a cluster, as often as wanted
//! cargo run --release --example million -- --cluster     # the client of that cluster
//! ```

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bolthole::{Client, task};
use clap::Parser;

#[derive(Parser)]
struct Flags {
    /// How many tasks
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    tasks: u64,
    /// Let the workers of a cluster do the work
    #[arg(long, conflicts_with = "worker")]
    cluster: bool,
    /// Be a worker of the cluster
    #[arg(long)]
    worker: bool,
}

#[task]
fn odd(number: u64) -> u64 {
    number & 1
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    if flags.worker {
        return Ok(bolthole::worker::from_env()?.run_async().await?);
    }
    let client = if flags.cluster { Client::from_env().await? } else { Client::embedded().await? };
    let began = Instant::now();

    let run = client.unnamed().open().await?;
    let mut handles = Vec::new();
    for number in 0..flags.tasks {
        handles.push(odd::submit(&run, number).await?);
    }
    run.close().await?;
    let submitted = began.elapsed();

    let (mut sum, mut count) = (0, 0_u64);
    let mut results = client.as_completed(handles);
    while let Some((_, result)) = results.next().await {
        sum += result?;
        count += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    run.forget().await?;

    ensure!(count == flags.tasks && sum == flags.tasks / 2, "{count} results, their sum is {sum}");
    println!("{count} results, their sum is {sum}");
    let submitted = submitted.as_secs_f64();
    println!("submitted in {submitted:.1} s, all results after {seconds:.1} s");
    println!("this process took at most {} MiB of memory", peak_mib()?);
    Ok(())
}

/// The most memory this process has had, in MiB.
fn peak_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("needs Linux's /proc")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")).context("no peak is given")?;
    Ok(kib.trim().parse::<u64>()?.div_ceil(1024))
}
