//! Many schedules, several at a time, and their summary.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::Instant;

use super::draw::draw;
use super::play::{Report, Servers, play};
use super::schedule::Schedule;
use super::shrink::shrink;
use crate::check::Invariant;
use crate::dag::Random;
use crate::servers::{self, Pair};

/// How often a failing schedule is played again to make it smaller.
const SHRINK_TRIES: usize = 30;
/// How often one is drawn in place of another whose faults came too late.
const REDRAWS: u64 = 4;

/// After how many schedules a sitting tells how it gets on.
const TELL_EVERY: u64 = 25;

/// How a sitting is held.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program whose processes are harmed: itself, mostly.
    pub program: String,
    /// Schedules that count.
    pub schedules: u64,
    /// What they follow from.
    pub seed: u64,
    /// Schedules at a time.
    pub jobs: usize,
    /// Where files of failing ones go.
    pub failures: PathBuf,
    /// Whether failing ones are made smaller.
    pub shrink: bool,
    /// No further schedule begins after this time.
    pub within: Duration,
}

/// What came of a sitting.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    /// Schedules that were played and whose faults were caused.
    pub schedules: u64,
    /// Faults caused by kind.
    pub fired: BTreeMap<String, u64>,
    /// Schedules that did not count, because no fault of theirs was caused.
    pub not_run: u64,
    /// Schedules that could not be played, which says nothing about the system.
    pub unplayed: u64,
    /// Executions of bodies, and those that repeated another one.
    pub executions: (usize, usize),
    /// Findings by what is broken.
    pub findings: BTreeMap<Invariant, u64>,
    /// Seeds of the schedules with findings.
    pub failing: Vec<u64>,
    /// How long it took.
    pub took: Duration,
}

/// Servers of harmful schedules, which use them one after the other.
type Spare = Arc<Mutex<Option<Pair>>>;

/// Holds a sitting.
///
/// # Errors
/// When a file of a failing schedule cannot be written.
#[expect(clippy::print_stdout, reason = "a sitting tells how it gets on")]
pub async fn sit(options: &Options) -> anyhow::Result<Summary> {
    let began = Instant::now();
    let spare = Spare::default();
    // Started by whoever is first, which must not be within a task.
    block_in_place(servers::shared);
    let mut summary = Summary::default();
    let mut playing: JoinSet<anyhow::Result<(u64, Schedule, Report)>> = JoinSet::new();
    let mut seeds = Random::new(options.seed);
    let mut started = 0;
    loop {
        while started < options.schedules
            && playing.len() < options.jobs
            && began.elapsed() < options.within
        {
            let (options, spare, seed) = (options.clone(), Arc::clone(&spare), seeds.draw());
            started += 1;
            playing.spawn(async move { one(&options, &spare, seed).await });
        }
        let Some(played) = playing.join_next().await else { break };
        let (redrawn, schedule, report) = match played? {
            Ok(played) => played,
            Err(error) => {
                let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
                println!("UNPLAYED {}", chain.join(": "));
                summary.unplayed += 1;
                continue;
            }
        };
        summary.add(redrawn, &schedule, &report);
        if summary.schedules.is_multiple_of(TELL_EVERY) {
            summary.took = began.elapsed();
            println!("{summary}");
        }
        if !report.findings.is_empty() {
            println!("FAILED {schedule}");
            for finding in report.findings.iter().take(8) {
                println!("  {finding}");
            }
            let smallest = if options.shrink {
                playing_again(options, &spare, schedule).await
            } else {
                schedule
            };
            let file = options.failures.join(format!("{}.json", smallest.seed));
            smallest.save(&file)?;
            println!("  smallest: {smallest}");
            println!("  again: {} --replay {}", options.program, file.display());
        }
    }
    summary.took = began.elapsed();
    Ok(summary)
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

/// Plays the schedule of a seed, or one drawn after it when its faults came too late.
async fn one(
    options: &Options,
    spare: &Spare,
    seed: u64,
) -> anyhow::Result<(u64, Schedule, Report)> {
    let mut redrawn = 0;
    loop {
        let schedule = draw(seed.wrapping_add(redrawn));
        let report = play_once(options, spare, &schedule).await;
        let report = report.with_context(|| schedule.to_string())?;
        let counts = schedule.faults.is_empty() || !report.fired.is_empty();
        if counts || !report.findings.is_empty() || redrawn == REDRAWS {
            return Ok((redrawn, schedule, report));
        }
        redrawn += 1;
    }
}

/// Plays a schedule, on servers of its own if it harms them.
///
/// # Errors
/// When it cannot be played.
pub async fn play_once(
    options: &Options,
    spare: &Spare,
    schedule: &Schedule,
) -> anyhow::Result<Report> {
    static QUIET: Once = Once::new();
    QUIET.call_once(quiet_oracle);
    let keep = Some(options.failures.join(schedule.seed.to_string()));
    if !schedule.harms_servers() {
        return play(&options.program, schedule, Servers::Shared(servers::shared()), keep).await;
    }
    let mut spare = spare.lock().await;
    let mut pair = match spare.take() {
        Some(pair) => pair,
        None => block_in_place(Pair::start)?,
    };
    let report = play(&options.program, schedule, Servers::Own(&mut pair), keep).await;
    // Servers of a play that failed are not trusted with the next one.
    if report.as_ref().is_ok_and(|report| report.findings.is_empty()) {
        *spare = Some(pair);
    }
    report
}

/// The smallest schedule that fails in the same way.
async fn playing_again(options: &Options, spare: &Spare, schedule: Schedule) -> Schedule {
    shrink(schedule, SHRINK_TRIES, async |smaller: &Schedule| {
        play_once(options, spare, smaller).await.is_ok_and(|report| !report.findings.is_empty())
    })
    .await
}

impl Summary {
    fn add(&mut self, redrawn: u64, schedule: &Schedule, report: &Report) {
        let counts = schedule.faults.is_empty() || !report.fired.is_empty();
        self.schedules += u64::from(counts);
        self.not_run += redrawn + u64::from(!counts);
        for kind in &report.fired {
            *self.fired.entry(kind.clone()).or_default() += 1;
        }
        for finding in &report.findings {
            *self.findings.entry(finding.invariant).or_default() += 1;
        }
        if !report.findings.is_empty() {
            self.failing.push(schedule.seed);
        }
        self.executions.0 += report.executions.0;
        self.executions.1 += report.executions.1;
    }

    fn count(&self, invariants: &[Invariant]) -> u64 {
        invariants.iter().filter_map(|invariant| self.findings.get(invariant)).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Invariant::{CommitsOnce, Ends, Inputs, Steady, Values};
        let lost = self.count(&[Ends]);
        let double = self.count(&[CommitsOnce]);
        let wrong = self.count(&[Values, Inputs, Steady]);
        let all: u64 = self.findings.values().sum();
        let (executions, repeated) = self.executions;
        write!(
            f,
            "chaos: {} schedules in {:.0?}, {} faults ({:?}), {executions} executions ({repeated} \
             repeated), lost {lost}, double commits {double}, wrong values {wrong}, other findings \
             {}, not run {}, not playable {}",
            self.schedules,
            self.took,
            self.fired.values().sum::<u64>(),
            self.fired,
            all - lost - double - wrong,
            self.not_run,
            self.unplayed,
        )
    }
}
