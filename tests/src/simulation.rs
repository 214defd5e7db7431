//! Random graphs on simulated clusters with random faults, against the same graphs run in order. All
//! of a case follows from its seed: graph, cluster, faults, and every step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use bolthole::capture::capture;
use bolthole::delayed::AnyDelayed;
use bolthole::testing::{
    Ended, Faults, Inside, Kind, Report, Sequential, SequentialError, Simulation,
};
use bolthole::{Client, Delayed, ErrorKind, FailurePolicy, Handle, TaskErrorKind};
use bolthole_broker::audit;
use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits::RECOMPUTE_MAX;
use bolthole_broker::queue::QueueName;
use bolthole_broker::run::Examination;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::Store;
use tokio::time::{sleep, timeout};

use crate::dag::{Dag, Random, digest};

/// The longest a case may take, in virtual time: faults last some minutes at most.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Findings of one case that are printed.
const PRINTED: usize = 4;
/// Cases in which everything should happen that faults are to bring about.
const ENOUGH: u64 = 200;
/// How long messages may be left when all is done: reminders and repetitions come to their end.
const SETTLE: Duration = Duration::from_secs(10 * 60);

/// What became of a case.
#[derive(Debug)]
pub struct Case {
    /// Its seed.
    pub seed: u64,
    /// Its faults.
    pub faults: Faults,
    /// Tasks of its graph.
    pub tasks: usize,
    /// What happened.
    pub report: Report,
    /// What the store has changed, as far as it did not forget it.
    pub changes: audit::Summary,
    /// Segments that the client has staged again.
    pub staged_again: u64,
    /// What must not be.
    pub findings: Vec<String>,
}

/// What a client reads of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// A text with this digest.
    Value(u64),
    /// It failed like this, or another task did that it needs.
    Failed(TaskErrorKind),
    /// It was skipped, as far as is known.
    None,
}

impl Case {
    /// Plays the case of a seed; `keep` its history.
    ///
    /// # Panics
    /// When the graph cannot be run in order: then there is nothing to compare with.
    pub fn play(seed: u64, keep: bool) -> Self {
        let mut random = Random::new(seed);
        let dag = Dag::random(&mut random);
        let faults = Faults::random(&mut random);
        let lease = [1, 2, 10][random.below(3)];
        let mut simulation = Simulation::new(seed)
            .workers(1 + random.below(4))
            .slots(1 + random.below(3))
            .lease(Duration::from_secs(lease))
            .faults(faults.clone())
            .limit(2 * LIMIT)
            .keep_history(keep);
        let calls = dag.calls();
        let expected = match expected(&calls) {
            Ok(expected) => expected,
            Err(error) => panic!("the graph of seed {seed} cannot be run in order: {error}"),
        };
        let observed = simulation.try_run(async |client: Client, inside: &Inside| {
            watch(seed, client, inside, calls).await
        });
        let report = simulation.report().clone();
        let mut findings = Vec::new();
        let (mut changes, mut staged_again) = (audit::Summary::default(), 0);
        match observed {
            Ok(Ok(observed)) => {
                (changes, staged_again) = (observed.changes, observed.staged_again);
                judge(&expected, observed, may_give_up(&report), &mut findings);
            }
            Ok(Err(stuck)) => findings.push(format!("C1: {stuck}")),
            Err(error) => findings.push(format!("the simulation cannot start: {error}")),
        }
        repeats(&report, &mut findings);
        let tasks = dag.nodes.len();
        Self { seed, faults, tasks, report, changes, staged_again, findings }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} tasks; {}", self.tasks, self.report)?;
        self.findings
            .iter()
            .take(PRINTED)
            .try_for_each(|finding| writeln!(f, "  violation: {finding}"))?;
        write!(f, "  again: simulate --seeds 1 --from {} --trace", self.seed)
    }
}

/// The outputs of the graph run in order.
fn expected(calls: &[Delayed<String>]) -> Result<Vec<Outcome>, bolthole::CaptureError> {
    let outputs: Vec<&dyn AnyDelayed> = calls.iter().map(|call| call as &dyn AnyDelayed).collect();
    let results = Sequential::new().virtual_time().run(&capture(&outputs)?);
    Ok(results.iter().map(in_order).collect())
}

fn in_order(result: &Result<bolthole_broker::call::Value, SequentialError>) -> Outcome {
    match result {
        Ok(value) => {
            let text: Option<String> = rmp_serde::from_slice(&value.bytes).ok();
            Outcome::Value(digest(&text.unwrap_or_default()))
        }
        Err(SequentialError::Failed { .. }) => Outcome::Failed(TaskErrorKind::User),
        Err(SequentialError::Panicked { .. }) => Outcome::Failed(TaskErrorKind::Panic),
        Err(_) => Outcome::None,
    }
}

/// What is seen of a run.
#[derive(Default)]
struct Observed {
    /// Outputs as they are read first, and once more when all is over.
    outcomes: [Vec<Result<Outcome, String>>; 2],
    changes: audit::Summary,
    staged_again: u64,
    findings: Vec<String>,
}

/// The same, with every change that the store has made meanwhile: C2, C4 and C6.
async fn watch(
    seed: u64,
    client: Client,
    inside: &Inside,
    calls: Vec<Delayed<String>>,
) -> Observed {
    let audited = inside.store().start_audit().await;
    let mut observed = look_on(seed, &client, inside, calls).await;
    observed.staged_again = client.staged_again();
    match inside.store().audit().await.map(|changes| audit::check(&changes)) {
        Ok(Ok(changes)) if audited.is_ok() => observed.changes = changes,
        Ok(Err(wrong)) => {
            observed.findings.extend(wrong.iter().map(|wrong| format!("C2, C4, C6: {wrong}")));
        }
        _ => observed.findings.push("the store's changes are not known".to_owned()),
    }
    observed
}

/// Submits the graph, reads its outputs while things go wrong, then looks at what is left.
async fn look_on(
    seed: u64,
    client: &Client,
    inside: &Inside,
    calls: Vec<Delayed<String>>,
) -> Observed {
    let mut observed = Observed::default();
    let Observed { outcomes, findings, .. } = &mut observed;
    let handles = match submit(seed, client, calls).await {
        Ok(handles) => handles,
        Err(error) => {
            outcomes[0].push(Err(error));
            return observed;
        }
    };
    let run = handles[0].in_run();
    let ended = timeout(LIMIT, async {
        for (place, handle) in handles.iter().enumerate() {
            let outcome = read(handle).await;
            inside.note(format_args!("output {place} is {outcome:?}"));
            outcomes[0].push(outcome);
        }
        findings.extend(examine(inside.store(), run.id()).await);
        inside.calm();
        if let Err(error) = run.wait().await {
            findings.push(format!("C1: the run's end cannot be waited for: {error}"));
        }
        for handle in &handles {
            outcomes[1].push(read(handle).await);
        }
    });
    if ended.await.is_err() {
        findings.push(format!("C1: stuck: {}", unfinished(inside.store(), run.id()).await));
        return observed;
    }
    findings.extend(examine(inside.store(), run.id()).await);
    drop(handles);
    if let Err(error) = run.forget().await {
        findings.push(format!("C8: the run cannot be deleted: {error}"));
    }
    findings.extend(left(inside).await);
    observed
}

/// What is still to do, for whoever looks for the reason.
async fn unfinished(store: &Store, run: RunId) -> String {
    let Ok(Some(dump)) = store.dump(run).await else { return "the run is gone".to_owned() };
    let mut open = Vec::new();
    for (segment, dump) in &dump.segments {
        for (index, task) in (0..).zip(&dump.tasks) {
            if dump.active && task.state.state() == TaskState::Pending {
                let task_id = TaskId::new(*segment, index);
                open.push(format!("{task_id} {:?} waits for {}", task.state, task.pending));
            }
        }
    }
    let workers = store.workers().await.unwrap_or_default();
    let busy: Vec<_> = workers.iter().map(|(index, one)| (index, &one.in_flight)).collect();
    let counts = (dump.status.state, dump.status.tasks, dump.status.finished);
    open.truncate(8);
    format!("{counts:?}; open: {open:?}; in flight: {busy:?}; outbox: {:?}", dump.outbox.len())
}

/// Submits under a name, again after an error: a run that was accepted is found again.
async fn submit(
    seed: u64,
    client: &Client,
    calls: Vec<Delayed<String>>,
) -> Result<Vec<Handle<String>>, String> {
    let mut tries = 0;
    loop {
        let run = client.run(format!("seed {seed}")).policy(FailurePolicy::Continue);
        match run.submit(calls.clone()).await {
            Ok(handles) => return Ok(handles),
            Err(error) if error.is_retryable() && tries < 100 => {
                tries += 1;
                sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(format!("not submitted: {error}")),
        }
    }
}

/// An output, asked for again while the servers are away.
async fn read(handle: &Handle<String>) -> Result<Outcome, String> {
    let mut tries = 0;
    loop {
        match handle.result().await {
            Ok(text) => return Ok(Outcome::Value(digest(&text))),
            Err(error) => match (error.kind(), error.task()) {
                (ErrorKind::Task(_), Some(task)) => return Ok(Outcome::Failed(task.kind.clone())),
                _ if error.is_retryable() && tries < 100 => {
                    tries += 1;
                    sleep(Duration::from_secs(1)).await;
                }
                _ => return Err(error.to_string()),
            },
        }
    }
}

/// C9 and C10: what the store counts, counted again.
async fn examine(store: &Store, run: RunId) -> Vec<String> {
    let Ok(Some(dump)) = store.dump(run).await else { return vec!["the run is gone".to_owned()] };
    let mut examination = Examination::new(&dump);
    for (segment, number) in examination.chunks() {
        let chunk = store.chunks(run, &[(segment, number)]).await.ok();
        let chunk = chunk.and_then(|mut chunks| chunks.pop().flatten());
        let chunk = chunk.and_then(|bytes| Chunk::decode(&bytes, segment).ok());
        examination.add(segment, number, chunk.as_ref());
    }
    examination.finish().iter().map(|finding| format!("C10: {finding}")).collect()
}

/// C8: what is left in the end.
async fn left(inside: &Inside) -> Option<String> {
    let step = Duration::from_secs(5);
    let mut waited = Duration::ZERO;
    loop {
        let runs = inside.store().runs().await.map_or(0, |runs| runs.len());
        let messages = inside.messages(&QueueName::default()).await;
        if runs == 0 && messages == 0 {
            return None;
        }
        if waited > SETTLE {
            return Some(format!("C8: {runs} runs and {messages} messages are left"));
        }
        sleep(step).await;
        waited += step;
    }
}

/// Whether workers were lost so often that a result may have been computed, and lost, as often as is
/// allowed.
fn may_give_up(report: &Report) -> bool {
    let lost =
        ["crash", "all crash", "lost host"].iter().filter_map(|kind| report.faults.get(kind));
    lost.sum::<u64>() >= u64::from(RECOMPUTE_MAX)
}

/// C3 and C7.
fn judge(expected: &[Outcome], observed: Observed, resigned: bool, findings: &mut Vec<String>) {
    let [first, second] = &observed.outcomes;
    // A result that was lost too often is given up, and says so.
    let resigned = resigned && observed.changes.given_up > 0;
    let is_given_up = |outcome: &Result<Outcome, String>| {
        resigned
            && match outcome {
                Ok(outcome) => *outcome == Outcome::Failed(TaskErrorKind::DataLost),
                Err(why) => why.contains("cannot be computed again"),
            }
    };
    findings.extend(observed.findings);
    for (place, (expected, outcome)) in expected.iter().zip(first).enumerate() {
        let agrees = match (expected, outcome) {
            // Because of which of several inputs is not determined.
            (Outcome::None, Ok(Outcome::Failed(_))) => true,
            (expected, Ok(outcome)) => expected == outcome,
            (_, Err(_)) => false,
        };
        if !agrees && !is_given_up(outcome) {
            findings.push(format!("C3: output {place} is {outcome:?}, not {expected:?}"));
        }
        let again = second.get(place).filter(|again| *again != outcome);
        if let Some(again) = again.filter(|again| !is_given_up(again)) {
            findings.push(format!("C7: output {place} was {outcome:?} and is {again:?}"));
        }
    }
}

/// C5: without faults a body runs once.
fn repeats(report: &Report, findings: &mut Vec<String>) {
    if !report.faults.is_empty() {
        return;
    }
    let mut counts: BTreeMap<(RunId, TaskId, u32), u32> = BTreeMap::new();
    for execution in &report.executions {
        *counts.entry((execution.run, execution.task, execution.attempt)).or_default() += 1;
    }
    let repeated = counts.into_iter().filter(|(_, count)| *count > 1);
    findings.extend(repeated.map(|((_, task, attempt), count)| {
        format!("C5: attempt {attempt} of {task} ran {count} times without a fault")
    }));
}

/// Plays seeds on all cores and takes what each came to, in any order.
pub fn play_all<T: Send>(
    seeds: Range<u64>,
    play: impl Fn(u64) -> T + Sync,
    take: impl FnMut(T) + Send,
) {
    silence();
    let next = AtomicU64::new(seeds.start);
    let take = Mutex::new(take);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = play(seed);
                    take.lock().unwrap_or_else(PoisonError::into_inner)(played);
                }
            });
        }
    });
}

/// Bodies that panic on purpose say nothing while their graph is run in order.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some("bolthole-sequential") {
                before(info);
            }
        }));
    });
}

/// Figures of many cases.
#[derive(Debug, Default)]
pub struct Summary {
    /// Cases.
    pub seeds: u64,
    /// Tasks of their graphs.
    pub tasks: u64,
    /// Attempts.
    pub attempts: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Events that faults are to bring about.
    pub sometimes: BTreeMap<&'static str, u64>,
    /// Violations.
    pub violations: u64,
}

impl Summary {
    /// Adds a case.
    pub fn add(&mut self, case: &Case) {
        self.seeds += 1;
        self.tasks += case.tasks as u64;
        self.attempts += case.report.executions.len() as u64;
        self.violations += case.findings.len() as u64;
        for (fault, count) in &case.report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        for (event, count) in sometimes(case) {
            *self.sometimes.entry(event).or_default() += count;
        }
    }
}

/// What faults are to bring about, as far as attempts show it.
fn sometimes(case: &Case) -> Vec<(&'static str, u64)> {
    let Case { report, changes, staged_again, .. } = case;
    let mut seen: BTreeMap<(RunId, TaskId, u8), BTreeSet<u32>> = BTreeMap::new();
    let mut crashed = 0;
    for execution in &report.executions {
        crashed += u64::from(execution.ended == Ended::Crashed);
        let key = (execution.run, execution.task, execution.generation);
        seen.entry(key).or_default().insert(execution.worker);
    }
    let elsewhere = seen.values().filter(|workers| workers.len() > 1).count() as u64;
    let recomputed = seen.keys().filter(|(_, _, generation)| *generation > 0).count() as u64;
    vec![
        ("cut short", crashed),
        ("fenced off", changes.superseded),
        ("leases taken over", changes.taken_over),
        ("recomputed", recomputed),
        ("repeated commits", changes.repeated),
        ("run elsewhere", elsewhere),
        ("staged again", *staged_again),
    ]
}

impl Summary {
    /// What should have happened in so many cases, and never did: then it was not tested either.
    pub fn never(&self) -> Vec<&'static str> {
        let happened = self.sometimes.iter().chain(&self.faults).filter(|(_, count)| **count > 0);
        let happened: BTreeSet<&str> = happened.map(|(event, _)| *event).collect();
        let expected = Kind::ALL.map(Kind::name).into_iter().chain(self.sometimes.keys().copied());
        let enough = self.seeds >= ENOUGH;
        expected.filter(|event| enough && !happened.contains(event)).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, tasks, attempts, violations, .. } = self;
        write!(f, "simulate: {seeds} seeds, {tasks} tasks, {attempts} attempts; faults:")?;
        self.faults.iter().try_for_each(|(fault, count)| write!(f, " {fault} {count},"))?;
        write!(f, " reached:")?;
        self.sometimes.iter().try_for_each(|(event, count)| write!(f, " {event} {count},"))?;
        write!(f, " {violations} violations")
    }
}
