//! Measures bolthole: starts private servers and worker processes, runs a workload, checks its
//! result and prints one line of JSON for it.
//!
//! ```text
//! cargo run --release -p bolthole-tests --bin bench -- noop 100000
//! cargo run --release -p bolthole-tests --bin bench -- etl 2000,4000 --embedded
//! cargo run --release -p bolthole-tests --bin bench -- compare --quick
//! cargo run --release -p bolthole-tests --bin bench -- --help
//! ```

mod compare;
mod fair;
mod fleet;
mod line;
mod live;
mod metg;
mod million;
mod setup;
mod workload;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bolthole::Client;
use bolthole_tests::servers::tls::Certificate;
use clap::Parser;

use line::{Counts, Line};
use setup::Setup;
use workload::Workload;

/// Runs of a workload that are not measured: connections are made, buffers and caches grow.
const WARM_UP_TASKS: u64 = 200;

#[derive(Debug, Parser)]
#[command(about = "Measures bolthole", after_help = workload::HELP)]
struct Flags {
    /// What to run; `compare` runs several on other systems, too (`compare --help`), `worker` is for
    /// this program's own use
    workload: String,
    /// How much of it: numbers, with commas between them
    #[arg(default_value = "")]
    size: String,
    /// Worker processes
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Slots of each worker [default: 1, or 10 for etlsleep and trace]
    #[arg(long)]
    slots: Option<u32>,
    /// How often it is measured
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Stop measuring again after so many seconds in all
    #[arg(long, default_value_t = 90.0)]
    limit: f64,
    /// A variable for the workers, as NAME=VALUE, such as `BOLTHOLE_ORDER=arrival`
    #[arg(long = "env", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// Reach both servers by TLS
    #[arg(long, conflicts_with = "embedded")]
    tls: bool,
    /// Everything in this process, without servers
    #[arg(long, conflicts_with = "cluster")]
    embedded: bool,
    /// With servers and worker processes, as is the default
    #[arg(long)]
    cluster: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Flags {
    fn slots(&self) -> u32 {
        let many = ["etlsleep", "trace"].contains(&self.workload.as_str());
        self.slots.unwrap_or(if many { 10 } else { 1 })
    }
}

#[expect(clippy::print_stderr, reason = "errors go to standard error")]
fn main() -> ExitCode {
    // A command with arguments of its own.
    let done = if std::env::args_os().nth(1).is_some_and(|first| first == "compare") {
        compare::run(&compare::Flags::parse_from(std::env::args_os().skip(1)))
    } else {
        let flags = Flags::parse();
        match flags.workload.as_str() {
            "worker" => setup::work(),
            _ if flags.tls && Certificate::trusted().is_none() => setup::again_with_trust(),
            _ => run(&flags),
        }
    };
    if let Err(error) = &done {
        eprintln!("bench: {error:#}");
    }
    ExitCode::from(u8::from(done.is_err()))
}

#[tokio::main]
async fn run(flags: &Flags) -> Result<()> {
    ensure!(flags.workers > 0 && flags.slots() > 0 && flags.runs > 0, "nothing would run");
    let slots = flags.workers * flags.slots();
    let workload = Workload::parse(&flags.workload, &flags.size)?;
    // A fleet brings its own workers.
    let processes = if matches!(workload, Workload::Fleet { .. }) { 0 } else { flags.workers };
    let unbatched = flags.workload == "unbatched";
    let slots_each = flags.slots();
    let setup =
        Setup::start(flags.embedded, processes, slots_each, unbatched, &flags.variables).await?;
    let client = setup.client();
    match &workload {
        Workload::Latency { count } => latency(flags, &setup, *count).await,
        Workload::Metg { pattern, steps } => {
            let found = metg::search(client, *pattern, *steps, slots).await?;
            line::print(&metg::Line { slots, cluster: setup.is_cluster(), ..found })
        }
        Workload::Million { width, steps } => {
            setup.reset_peaks();
            let found = million::run(&setup, *width, *steps).await?;
            line::print(&found)
        }
        Workload::Fleet { workers, tasks, ms } => {
            line::print(&fleet::run(&setup, *workers, *tasks, *ms).await?)
        }
        Workload::Fair { large, small, ms } => {
            line::print(&fair::run(&setup, *large, *small, *ms).await?)
        }
        _ => throughput(flags, &setup, &workload).await,
    }
}

async fn throughput(flags: &Flags, setup: &Setup, workload: &Workload) -> Result<()> {
    let client = setup.client();
    let warm = Workload::Noop { tasks: WARM_UP_TASKS };
    ensure!(warm.run(client).await?, "the warm-up gave a wrong result");
    setup.reset_peaks();
    let before = setup.counts()?;
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..flags.runs {
        let began = Instant::now();
        let right = workload.run(client).await?;
        seconds.push(began.elapsed().as_secs_f64());
        ensure!(right, "{} {} gave a wrong result", flags.workload, flags.size);
        if seconds.iter().sum::<f64>() > flags.limit {
            break;
        }
    }
    let used = setup.counts()?.since(&before).each(seconds.len());
    let median_s = line::median(&seconds);
    let ideal = workload.ideal(flags.workers * flags.slots());
    line::print(&Line {
        workload: flags.workload.clone(),
        size: flags.size.clone(),
        cluster: setup.is_cluster(),
        workers: flags.workers,
        slots: flags.slots(),
        seconds,
        median_s,
        tasks: workload.tasks(),
        tasks_per_s: line::per_second(workload.tasks(), median_s),
        mib_per_s: workload.mib().map(|mib| line::per_second(mib, median_s)),
        schedule_s: ideal.map(|ideal| ideal.schedule.as_secs_f64()),
        bound_s: ideal.map(|ideal| ideal.bound.as_secs_f64()),
        over_schedule: ideal.map(|ideal| median_s / ideal.schedule.as_secs_f64() - 1.0),
        peak_rss_mib: setup.peaks(),
        live: setup.live()?,
        per_task: used.per_task(workload.tasks()),
        per_run: used,
    })
}

async fn latency(flags: &Flags, setup: &Setup, count: u32) -> Result<()> {
    let client = setup.client();
    for number in 0..20 {
        one(client, number).await?;
    }
    setup.reset_peaks();
    let before = setup.counts()?;
    let mut runs = Vec::new();
    for _ in 0..flags.runs {
        let mut times = Vec::new();
        for number in 0..count {
            times.push(one(client, u64::from(number)).await?);
        }
        times.sort_unstable();
        runs.push(times);
    }
    let used = setup.counts()?.since(&before);
    let at = |share| {
        let times: Vec<_> = runs.iter().map(|times| line::quantile_ms(times, share)).collect();
        line::median(&times)
    };
    line::print(&line::Latency {
        workload: flags.workload.clone(),
        size: flags.size.clone(),
        cluster: setup.is_cluster(),
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        p50_runs: runs.iter().map(|times| line::quantile_ms(times, 0.5)).collect(),
        peak_rss_mib: setup.peaks(),
        per_task: used.per_task(u64::from(count) * u64::from(flags.runs)),
    })
}

/// Submits one task to an idle system and waits for its result.
async fn one(client: &Client, number: u64) -> Result<Duration> {
    use bolthole_tests::bench::tasks::noop;

    let began = Instant::now();
    let result = noop::submit(client, number).await?.result().await?;
    let took = began.elapsed();
    ensure!(result == number & 1, "a task gave {result} for {number}");
    Ok(took)
}

/// Reads what servers and processes have used so far.
impl Setup {
    fn counts(&self) -> Result<Counts> {
        Counts::read(self)
    }
}
