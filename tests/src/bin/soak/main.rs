//! A cluster under steady load and steady harm: `soak [--minutes 10] [--every 20]`.
//!
//! Graphs with known answers keep about 70 % of the slots busy, and every so many seconds something
//! is killed, stopped or restarted. All answers must be right, and what processes and servers take
//! must not grow. The last line is the summary; the exit code is 1 when something is not as it must
//! be.

mod harm;
mod load;
mod measure;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bolthole_tests::cluster::Cluster;
use bolthole_tests::servers::Pair;
use clap::Parser;
use tokio::time::{Instant, sleep_until};

/// Keeps a cluster busy and harms it, and looks whether anything is lost, wrong or leaking.
#[derive(Debug, Parser)]
struct Flags {
    /// How long, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Seconds between two faults.
    #[arg(long, default_value_t = 20)]
    every: u64,
    /// Serves as one of the workers instead.
    #[arg(hide = true)]
    role: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    if flags.role.as_deref() == Some("worker") {
        let filter = tracing_subscriber::EnvFilter::new("info");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        bolthole::worker::from_env()?.run_async().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let well = soak(&flags).await?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
async fn soak(flags: &Flags) -> Result<bool> {
    let mut servers = tokio::task::spawn_blocking(Pair::start).await??;
    let cluster = Cluster::new(std::env::current_exe()?, &servers)?;
    let environment = [("BOLTHOLE_LEASE", "2s")];
    let steady = cluster.worker_with("steady", &environment).await?;
    let mut harm = harm::Harm::new(&cluster, &environment).await?;
    let client = cluster.client().await?;
    let load = load::Load::start(client);
    let began = Instant::now();
    let end = began + Duration::from_secs(60 * flags.minutes);
    let mut measure = measure::Measure::new(&steady, &servers)?;
    let mut next_fault = Instant::now() + Duration::from_secs(flags.every);
    let mut tick = Instant::now();
    while Instant::now() < end {
        tick += Duration::from_secs(1);
        sleep_until(tick.max(Instant::now())).await;
        measure.read(&servers);
        if Instant::now() >= next_fault {
            let fault = harm.cause(&cluster, &mut servers).await?;
            println!("{:>5} s  {fault}", tick.duration_since(began).as_secs());
            next_fault = Instant::now() + Duration::from_secs(flags.every);
        }
    }
    harm.heal(&cluster).await?;
    let done = load.finish().await?;
    let (report, flat) = measure.report();
    println!("{report}");
    let left = measure::left_behind(&cluster, &servers).await.context("what is left behind")?;
    drop((steady, harm));
    println!("left behind: {left}");
    let well = flat && done.wrong == 0 && done.failed == 0 && left.is_nothing();
    println!(
        "soak: {} min, {} graphs ({} wrong, {} failed), {} tasks, flat: {flat}, left: {left}",
        flags.minutes, done.graphs, done.wrong, done.failed, done.tasks
    );
    Ok(well)
}
