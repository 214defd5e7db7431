//! Random faults on real processes: plays schedules and ends with a summary, or plays one again. The
//! status is 0 when nothing was found. Its subcommands are the processes that it harms.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bolthole_broker::clock;
use bolthole_tests::chaos::member;
use bolthole_tests::chaos::schedule::Schedule;
use bolthole_tests::chaos::sitting::{Options, play_once, sit};
use clap::{Parser, Subcommand};

/// Plays random graphs on real processes with random faults, and judges what came of it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Flags {
    /// How many schedules to draw and play
    #[arg(long, value_name = "N", default_value_t = 20)]
    schedules: u64,
    /// What they are drawn from [default: a random number, which is printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How many are played at once
    #[arg(long, value_name = "J", default_value_t = 4)]
    jobs: usize,
    /// Where schedules that failed are kept [default: bolthole-chaos among the temporary files]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Do not make schedules that failed smaller
    #[arg(long)]
    whole: bool,
    /// Play this schedule instead
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// How often to play it
    #[arg(long, value_name = "N", default_value_t = 1, requires = "replay")]
    times: u64,
    #[command(subcommand)]
    member: Option<Member>,
}

/// A process that is harmed.
#[derive(Debug, Subcommand)]
enum Member {
    #[command(hide = true)]
    Worker,
    #[command(hide = true)]
    Client { schedule: PathBuf, history: PathBuf, ledger: String },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    log(if flags.member.is_some() { "info" } else { "error" });
    match &flags.member {
        Some(Member::Worker) => member::worker().await?,
        Some(Member::Client { schedule, history, ledger }) => {
            member::client(schedule, history, ledger).await?;
        }
        None => return harm(flags).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

#[expect(clippy::print_stdout, reason = "what was found goes to standard output")]
async fn harm(flags: Flags) -> Result<ExitCode> {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let options = Options {
        program,
        schedules: flags.schedules,
        seed: flags.seed.unwrap_or_else(|| clock::random_u64() >> 32),
        jobs: flags.jobs,
        failures: flags.keep.unwrap_or_else(|| std::env::temp_dir().join("bolthole-chaos")),
        shrink: !flags.whole,
        within: Duration::MAX,
    };
    std::fs::create_dir_all(&options.failures)?;
    if let Some(file) = flags.replay {
        return again(&options, &file, flags.times).await;
    }
    println!("chaos: seed {}", options.seed);
    let summary = sit(&options).await?;
    if !summary.findings.is_empty() {
        println!("chaos: {:?}, files in {}", summary.findings, options.failures.display());
    }
    println!("{summary}");
    let good = summary.findings.is_empty() && summary.unplayed == 0 && summary.schedules > 0;
    Ok(ExitCode::from(u8::from(!good)))
}

/// Plays one schedule so many times.
#[expect(clippy::print_stdout, reason = "what was found goes to standard output")]
async fn again(options: &Options, file: &Path, times: u64) -> Result<ExitCode> {
    let schedule = Schedule::load(file)?;
    println!("{schedule}");
    let spare = std::sync::Arc::default();
    let mut found = 0;
    for _ in 0..times {
        let report = play_once(options, &spare, &schedule).await?;
        report.findings.iter().for_each(|finding| println!("  {finding}"));
        found += u64::from(!report.findings.is_empty());
        println!("caused {:?}, missed {}, {:.1?}", report.fired, report.missed, report.took);
    }
    println!("chaos: {found} of {times} plays failed, files in {}", options.failures.display());
    Ok(ExitCode::from(u8::from(found > 0)))
}
