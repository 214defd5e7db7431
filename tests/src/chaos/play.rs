//! One schedule from start to verdict.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bolthole_broker::id::RunId;
use bolthole_broker::run::RunStatus;
use bolthole_broker::store::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::crew::Crew;
use super::fault::{Fault, Harm, Trigger};
use super::harm::Undo;
use super::member::RUN;
use super::network::Network;
use super::place;
use super::schedule::Schedule;
use super::verdict;
use crate::check::{Finding, Invariant, check};
use crate::cluster::Cluster;
use crate::servers::Pair;

/// How long a run may stand still after the last fault is over, without a task that finishes. Far
/// more than it takes: what is found late is found by the slowest of the ways to find it.
const BOUND: Duration = Duration::from_secs(60);
/// How often processes and triggers are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// The servers of a play.
#[derive(Debug)]
pub enum Servers<'a> {
    /// Used by others meanwhile: no harm may come to them.
    Shared(&'a Pair),
    /// Of this play alone.
    Own(&'a mut Pair),
}

/// What came of a play.
#[derive(Debug)]
pub struct Report {
    /// What must not be.
    pub findings: Vec<Finding>,
    /// Kinds of the faults that were caused.
    pub fired: Vec<String>,
    /// Faults that were not: the run was over before.
    pub missed: usize,
    /// Executions of bodies, and how many of them repeated another one.
    pub executions: (usize, usize),
    /// How long it took.
    pub took: Duration,
}

/// A schedule that is being played.
#[derive(Debug)]
pub(super) struct Play<'a> {
    pub(super) schedule: &'a Schedule,
    pub(super) servers: Servers<'a>,
    pub(super) cluster: Cluster,
    pub(super) crew: Crew,
    pub(super) network: Network,
    pub(super) undo: Vec<(Instant, Undo)>,
    seen: watch::Receiver<Option<Seen>>,
}

/// The run as the store knows it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) run: RunId,
    pub(super) status: RunStatus,
}

impl Servers<'_> {
    pub(super) fn pair(&self) -> &Pair {
        match self {
            Self::Shared(pair) => pair,
            Self::Own(pair) => pair,
        }
    }
}

/// Plays a schedule with processes of `program`; with `keep`, its files are copied to that folder
/// when something was found.
///
/// # Errors
/// When it cannot be played: that says nothing about the system.
pub async fn play(
    program: &str,
    schedule: &Schedule,
    servers: Servers<'_>,
    keep: Option<PathBuf>,
) -> anyhow::Result<Report> {
    let began = Instant::now();
    let cluster = Cluster::new(program, servers.pair())?;
    schedule.save(&place::schedule(cluster.folder()))?;
    let expected = verdict::expected(&schedule.dag, cluster.folder()).await?;
    let store = cluster.store().await.context("a store for the player")?;
    store.start_audit().await?;
    let network = Network::of(schedule, servers.pair()).await?;
    let crew = Crew::start(&cluster, schedule, &network, servers.pair())?;
    let (tell, seen) = watch::channel(None);
    // Ends with the play.
    let mut watching = JoinSet::new();
    watching.spawn(look_at_run(store, tell));
    let mut play = Play { schedule, servers, cluster, crew, network, undo: Vec::new(), seen };
    let fired = play.run().await?;
    let history = verdict::judge(&mut play, expected).await?;
    let mut findings = std::mem::take(&mut play.crew.findings);
    findings.extend(check(&history));
    if let Some(folder) = keep.filter(|_| !findings.is_empty()) {
        verdict::keep(&play, &history, &findings, &folder)?;
    }
    let executions = (history.executions.len(), history.repeated());
    let missed = schedule.faults.len() - fired.len();
    Ok(Report { findings, fired, missed, executions, took: began.elapsed() })
}

/// Tells where the run stands, as often as the store says it.
async fn look_at_run(store: Store, tell: watch::Sender<Option<Seen>>) {
    loop {
        if let Ok(Some(run)) = store.find(RUN).await
            && let Ok(Some(status)) = store.status(run).await
            && tell.send(Some(Seen { run, status })).is_err()
        {
            return;
        }
        sleep(LOOK).await;
    }
}

impl Play<'_> {
    /// The run, as far as it was seen.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.seen.borrow().clone()
    }

    /// Causes every fault when it is due, until the client has what it wants and nothing more can
    /// happen; then makes everything good and waits for the end. The kinds of faults caused.
    async fn run(&mut self) -> anyhow::Result<Vec<String>> {
        let began = Instant::now();
        let (mut last, mut finished) = (began, 0);
        let mut open: Vec<&Fault> = self.schedule.faults.iter().collect();
        let mut fired: Vec<&Harm> = Vec::new();
        loop {
            self.crew.look(&self.cluster)?;
            if self.points()? | self.undo_due(Instant::now()).await? {
                last = Instant::now();
            }
            if self.finished() != finished {
                (last, finished) = (Instant::now(), self.finished());
            }
            let over = self.seen().is_some_and(|seen| !seen.status.state.is_running());
            if !over && self.cause_due(&mut open, &mut fired, began).await? {
                last = Instant::now();
            }
            // From the end on nothing more is caused, and what lasts is cut short.
            if over || last.elapsed() > BOUND {
                break;
            }
            sleep(LOOK).await;
        }
        self.undo_all().await?;
        // Only the client can still come to harm: while it reads.
        open.retain(|fault| fault.harm.is_clients() && matches!(fault.when, Trigger::Said(_)));
        let mut healed = (Instant::now(), self.finished());
        while !self.crew.finished && healed.0.elapsed() < BOUND {
            let caused = self.cause_due(&mut open, &mut fired, began).await?;
            if caused | self.undo_due(Instant::now()).await? || self.finished() != healed.1 {
                healed = (Instant::now(), self.finished());
            }
            self.points()?;
            self.crew.heal();
            self.crew.look(&self.cluster)?;
            sleep(LOOK).await;
        }
        fired.retain(|harm| self.has_happened(harm));
        if !self.crew.finished {
            let what = format!("the client waits in vain: {:?}", self.seen().map(|s| s.status));
            self.crew.findings.push(Finding::new(Invariant::Ends, what));
        }
        Ok(fired.into_iter().map(Harm::kind).collect())
    }

    /// Causes the faults that are due; whether there were any. What nobody is there for now is tried
    /// again.
    async fn cause_due<'a>(
        &mut self,
        open: &mut Vec<&'a Fault>,
        fired: &mut Vec<&'a Harm>,
        began: Instant,
    ) -> anyhow::Result<bool> {
        let before = fired.len();
        let mut place = 0;
        while let Some(fault) = open.get(place).copied() {
            let due = self.is_due(fault.when, began);
            if due && self.cause(&fault.harm).await.with_context(|| fault.harm.kind())? {
                fired.push(&fault.harm);
                open.remove(place);
            } else {
                place += 1;
            }
        }
        Ok(fired.len() > before)
    }

    /// Some faults are asked for, and happen later or never.
    fn has_happened(&self, harm: &Harm) -> bool {
        match harm {
            Harm::Point { rule, .. } => {
                self.crew.hits.iter().any(|hit| rule.starts_with(&hit.point))
            }
            Harm::Net { worker, link, net, .. } => self.network.has_failed((*worker, *link), *net),
            _ => true,
        }
    }

    /// Sees to it that whoever a failpoint has stopped goes on; whether there was any.
    fn points(&mut self) -> anyhow::Result<bool> {
        let hits = self.crew.new_hits(&self.cluster)?;
        let now = Instant::now();
        for (hit, lasts) in hits.iter().filter(|(hit, _)| hit.action == "stop") {
            let undo = hit.who.map_or(Undo::Client, Undo::Worker);
            self.undo.push((now + *lasts, undo));
        }
        Ok(!hits.is_empty())
    }

    /// Tasks that have finished, as far as it was seen.
    fn finished(&self) -> u64 {
        self.seen.borrow().as_ref().map_or(0, |seen| seen.status.finished)
    }

    fn is_due(&self, when: Trigger, began: Instant) -> bool {
        match when {
            Trigger::After(ms) => began.elapsed() >= Duration::from_millis(ms),
            Trigger::Finished(tasks) => {
                self.seen.borrow().as_ref().is_some_and(|seen| seen.status.finished >= tasks)
            }
            Trigger::Said(lines) => {
                let history = place::history(self.cluster.folder());
                let said = std::fs::read_to_string(history).unwrap_or_default();
                said.lines().count() as u64 >= lines
            }
        }
    }
}
