//! Every fault at every place of the protocol, again and again. The last line is the summary; the
//! status is 0 when nothing was found. Its roles are the processes that are harmed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use bolthole_broker::audit::Summary;
use bolthole_tests::drill::{Drill, drill, member};
use bolthole_tests::servers::Pair;
use clap::Parser;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use tokio::time::Instant;

/// Makes every fault happen at every place of the protocol, and judges what came of it.
#[derive(Debug, Parser)]
struct Flags {
    /// How often each
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeats: u64,
    /// How many at once
    #[arg(long, value_name = "J", default_value_t = 10)]
    jobs: usize,
    /// Only at this place
    #[arg(long, value_name = "NAME")]
    point: Option<String>,
    /// Be one of the processes that are harmed instead
    #[arg(hide = true, value_parser = ["worker", "client"])]
    role: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    let filter = if flags.role.is_some() { "info" } else { "error" };
    let filter = tracing_subscriber::EnvFilter::new(filter);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match &flags.role {
        Some(role) => member(role).await.map(|()| ExitCode::SUCCESS),
        None => all(&flags).await,
    }
}

#[expect(clippy::print_stdout, reason = "what was found goes to standard output")]
async fn all(flags: &Flags) -> Result<ExitCode> {
    let program = std::env::current_exe()?;
    let servers = Pair::start()?;
    let began = Instant::now();
    let wanted =
        |drill: &Drill| flags.point.as_ref().is_none_or(|point| point == drill.point.name());
    let drills = (0..flags.repeats).flat_map(Drill::all).filter(wanted);
    let one = async |drill: Drill| (drill, carry_out(&program, &servers, drill).await);
    let mut results = std::pin::pin!(iter(drills).map(one).buffer_unordered(flags.jobs.max(1)));
    let (mut done, mut broken, mut committed, mut superseded) = (0, 0, 0, 0);
    while let Some((drill, result)) = results.next().await {
        done += 1;
        match result {
            Ok(summary) => {
                committed += summary.committed;
                superseded += summary.superseded;
            }
            Err(error) => {
                broken += 1;
                println!("BROKEN {drill}: {error:#}");
            }
        }
    }
    println!(
        "failpoints: {done} faults in {:.0?}, {broken} of them broke the promise; {committed} \
         commits, {superseded} too late",
        began.elapsed()
    );
    Ok(if broken == 0 && done > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn carry_out(program: &PathBuf, servers: &Pair, one: Drill) -> Result<Summary> {
    drill(Path::new(program), servers, one).await
}
