//! Random faults on real processes. `chaos --schedules N --seed S [--jobs J] [--keep FOLDER]` plays N
//! schedules and ends with a summary; `chaos --replay FILE` plays one again. The status is 0 when
//! nothing was found. `chaos worker` and `chaos client` are the processes that it harms.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bolthole_broker::clock;
use bolthole_tests::chaos::member;
use bolthole_tests::chaos::schedule::Schedule;
use bolthole_tests::chaos::sitting::{Options, play_once, sit};

const USAGE: &str = "chaos [--schedules N] [--seed S] [--jobs J] [--keep FOLDER] [--whole] | \
                     chaos --replay FILE [--times N]";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker"] => {
            log("info");
            member::worker().await.map(|()| ExitCode::SUCCESS)
        }
        ["client", schedule, history, ledger] => {
            log("info");
            member::client(Path::new(schedule), Path::new(history), ledger)
                .await
                .map(|()| ExitCode::SUCCESS)
        }
        _ => {
            log("error");
            quiet_oracle();
            harm(&args).await
        }
    }
}

fn log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Panics of bodies that are run in order are expected: they belong to the graph.
fn quiet_oracle() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("bolthole-sequential") {
            print(panic);
        }
    }));
}

#[expect(clippy::print_stdout, reason = "what was found goes to standard output")]
async fn harm(args: &[String]) -> Result<ExitCode> {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let failures = std::env::temp_dir().join("bolthole-chaos");
    let mut options = Options {
        program,
        schedules: 20,
        seed: clock::random_u64() >> 32,
        jobs: 4,
        failures,
        shrink: true,
        within: Duration::MAX,
    };
    let (mut file, mut times) = (None, 1);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--whole" {
            options.shrink = false;
            continue;
        }
        let value = args.next().with_context(|| format!("{arg} needs a value: {USAGE}"))?;
        match arg.as_str() {
            "--schedules" => options.schedules = value.parse()?,
            "--seed" => options.seed = value.parse()?,
            "--jobs" => options.jobs = value.parse()?,
            "--keep" => options.failures = PathBuf::from(value),
            "--replay" => file = Some(PathBuf::from(value)),
            "--times" => times = value.parse()?,
            _ => bail!(USAGE),
        }
    }
    std::fs::create_dir_all(&options.failures)?;
    if let Some(file) = file {
        return again(&options, &file, times).await;
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
