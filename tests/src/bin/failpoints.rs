//! Every fault at every place of the protocol, again and again: `failpoints [--repeats N] [--jobs J]
//! [--point NAME]`. The last line is the summary; the status is 0 when nothing was found. `failpoints
//! worker` and `failpoints client` are the processes that are harmed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use bolthole_broker::audit::Summary;
use bolthole_tests::drill::{Drill, drill, member};
use bolthole_tests::servers::Pair;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use tokio::time::Instant;

const USAGE: &str = "failpoints [--repeats N] [--jobs J] [--point NAME]";

/// What was asked for.
struct Options {
    repeats: u64,
    jobs: usize,
    point: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_member = matches!(args.first().map(String::as_str), Some("worker" | "client"));
    let filter = tracing_subscriber::EnvFilter::new(if is_member { "info" } else { "error" });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match args.as_slice() {
        [role] if is_member => member(role).await.map(|()| ExitCode::SUCCESS),
        _ => all(&options(&args)?).await,
    }
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options { repeats: 1, jobs: 10, point: None };
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!(USAGE) };
        match name.as_str() {
            "--repeats" => options.repeats = value.parse().context(USAGE)?,
            "--jobs" => options.jobs = value.parse().context(USAGE)?,
            "--point" => options.point = Some(value.clone()),
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

#[expect(clippy::print_stdout, reason = "what was found goes to standard output")]
async fn all(options: &Options) -> Result<ExitCode> {
    let program = std::env::current_exe()?;
    let servers = Pair::start()?;
    let began = Instant::now();
    let wanted =
        |drill: &Drill| options.point.as_ref().is_none_or(|point| point == drill.point.name());
    let drills = (0..options.repeats).flat_map(Drill::all).filter(wanted);
    let one = async |drill: Drill| (drill, carry_out(&program, &servers, drill).await);
    let mut results = std::pin::pin!(iter(drills).map(one).buffer_unordered(options.jobs.max(1)));
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
