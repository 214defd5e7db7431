//! One place in a crew: processes one after the other, their files, and failpoints of the first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::Instant;

use super::fault::Harm;
use super::schedule::Schedule;
use crate::cluster::{Cluster, Member};

/// One place in the crew: a process comes after the other.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    /// As arguments of the program.
    pub(super) args: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Rules of failpoints for the first process here, and how long what they do lasts.
    pub(super) rules: String,
    pub(super) lasts: Duration,
    pub(super) member: Option<Member>,
    /// How many have been here.
    pub(super) started: usize,
    /// It was told to go.
    pub(super) leaving: bool,
    pub(super) stopped: bool,
    /// When the next one starts.
    pub(super) back: Option<Instant>,
}

/// A failpoint has done something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// The process.
    pub(super) process: u32,
    /// The worker; `None` is the client.
    pub(super) who: Option<usize>,
    /// The place.
    pub(super) point: String,
    /// What it did.
    pub(super) action: String,
}

impl Place {
    pub(super) fn new(
        name: String,
        args: Vec<String>,
        environment: Vec<(String, String)>,
        (rules, lasts): (String, Duration),
    ) -> Self {
        let (member, back) = (None, None);
        let (started, leaving, stopped) = (0, false, false);
        Self { name, args, environment, rules, lasts, member, started, leaving, stopped, back }
    }

    pub(super) fn start(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let name = format!("{}-{}", self.name, self.started);
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let environment = self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let mut environment: Vec<_> = environment.collect();
        let log = points(cluster.folder()).to_string_lossy().into_owned();
        if self.started == 0 && !self.rules.is_empty() {
            environment.push(("BOLTHOLE_FAILPOINTS", &self.rules));
            environment.push(("BOLTHOLE_FAILPOINTS_LOG", &log));
        }
        self.member = Some(cluster.start(&name, &args, &environment)?);
        self.started += 1;
        (self.leaving, self.stopped, self.back) = (false, false, None);
        Ok(())
    }

    pub(super) fn kill(&mut self, back: Option<Duration>) -> bool {
        let was = self.member.take().is_some();
        if was {
            self.back = back.map(|back| Instant::now() + back);
        }
        was
    }

    pub(super) fn signal(&mut self, name: &str) -> bool {
        let sent = self.member.as_ref().is_some_and(|member| member.signal(name).is_ok());
        if sent && name == "STOP" {
            self.stopped = true;
        } else if sent && name == "CONT" {
            self.stopped = false;
        }
        sent
    }

    /// What the last one here has printed.
    pub(super) fn log(&self, cluster: &Cluster) -> PathBuf {
        let last = self.started.saturating_sub(1);
        cluster.folder().join(format!("{}-{last}.log", self.name))
    }

    /// Which process has ended since the last look, and how.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<(u32, ExitStatus)>> {
        let Some(member) = &mut self.member else { return Ok(None) };
        let ended = member.ended()?.map(|status| (member.id(), status));
        if ended.is_some() {
            self.member = None;
        }
        Ok(ended)
    }

    pub(super) fn is(&self, process: u32) -> bool {
        self.member.as_ref().is_some_and(|member| member.id() == process)
    }
}

/// Rules of failpoints for a worker or the client, and how long what they do lasts.
pub(super) fn rules(plan: &Schedule, who: Option<usize>) -> (String, Duration) {
    let (mut rules, mut lasts) = (Vec::new(), 0);
    for fault in &plan.faults {
        if let Harm::Point { worker, rule, ms } = &fault.harm
            && *worker == who
        {
            rules.push(rule.as_str());
            lasts = lasts.max(*ms);
        }
    }
    (rules.join(";"), Duration::from_millis(lasts))
}

/// Adds what failpoints have done since the last time.
pub(super) fn read_hits(cluster: &Cluster, hits: &mut Vec<Hit>) -> anyhow::Result<()> {
    let text = fs::read_to_string(points(cluster.folder())).unwrap_or_default();
    for line in text.lines().skip(hits.len()) {
        let words: Vec<&str> = line.split(' ').collect();
        let [point, _, process, action] = words[..] else {
            anyhow::bail!("no line of a failpoint: {line:?}");
        };
        let (point, action) = (point.to_owned(), action.to_owned());
        hits.push(Hit { process: process.parse()?, who: None, point, action });
    }
    Ok(())
}

pub(super) fn aborted(hits: &[Hit], process: u32) -> bool {
    hits.iter().any(|hit| hit.process == process && hit.action == "abort")
}

/// Where workers spill.
pub(super) fn spill(folder: &Path) -> PathBuf {
    folder.join("spill")
}

/// Where the ledgers are.
pub(super) fn ledger(folder: &Path) -> PathBuf {
    folder.join("ledger")
}

/// What failpoints have done.
fn points(folder: &Path) -> PathBuf {
    folder.join("failpoints")
}

/// What the clients were told.
pub(super) fn history(folder: &Path) -> PathBuf {
    folder.join("history")
}

/// What is played.
pub(super) fn schedule(folder: &Path) -> PathBuf {
    folder.join("schedule.json")
}
