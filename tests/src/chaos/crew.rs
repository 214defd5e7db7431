//! Workers and the client of a play, as processes: started, watched, harmed and replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::check::{Finding, Invariant};
use crate::cluster::{Cluster, Member};

/// The lease of workers in a play: short, so that the dead are found while one waits for it.
const LEASE: &str = "1s";

/// One place in the crew: a process comes after the other.
#[derive(Debug)]
struct Place {
    name: String,
    /// As arguments of the program.
    args: Vec<String>,
    environment: Vec<(String, String)>,
    member: Option<Member>,
    /// How many have been here.
    started: usize,
    /// It was told to go.
    leaving: bool,
    stopped: bool,
    /// When the next one starts.
    back: Option<Instant>,
}

/// All processes of a play.
#[derive(Debug)]
pub(super) struct Crew {
    workers: Vec<Place>,
    client: Place,
    /// The client has done all that it was started for.
    pub(super) finished: bool,
    /// What went wrong without having been made to.
    pub(super) findings: Vec<Finding>,
}

impl Place {
    fn new(name: String, args: Vec<String>, environment: Vec<(String, String)>) -> Self {
        let (member, back) = (None, None);
        let (started, leaving, stopped) = (0, false, false);
        Self { name, args, environment, member, started, leaving, stopped, back }
    }

    fn start(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let name = format!("{}-{}", self.name, self.started);
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let environment = self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let environment: Vec<_> = environment.collect();
        self.member = Some(cluster.start(&name, &args, &environment)?);
        self.started += 1;
        (self.leaving, self.stopped, self.back) = (false, false, None);
        Ok(())
    }

    fn kill(&mut self, back: Option<Duration>) -> bool {
        let was = self.member.take().is_some();
        if was {
            self.back = back.map(|back| Instant::now() + back);
        }
        was
    }

    fn signal(&mut self, name: &str) -> bool {
        let sent = self.member.as_ref().is_some_and(|member| member.signal(name).is_ok());
        if sent && name == "STOP" {
            self.stopped = true;
        } else if sent && name == "CONT" {
            self.stopped = false;
        }
        sent
    }

    /// What the last one here has printed.
    fn log(&self, cluster: &Cluster) -> PathBuf {
        let last = self.started.saturating_sub(1);
        cluster.folder().join(format!("{}-{last}.log", self.name))
    }

    /// How its process has ended, if it has since the last look.
    fn ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let Some(member) = &mut self.member else { return Ok(None) };
        let ended = member.ended()?;
        if ended.is_some() {
            self.member = None;
        }
        Ok(ended)
    }
}

impl Crew {
    /// Starts a worker with so many slots at each place, then the client.
    pub(super) fn start(cluster: &Cluster, slots: &[usize]) -> anyhow::Result<Self> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let folder = cluster.folder();
        for folder in [spill(folder), ledger(folder)] {
            fs::create_dir(&folder)?;
        }
        let mut workers = Vec::with_capacity(slots.len());
        for (place, slots) in slots.iter().enumerate() {
            let environment = vec![
                ("BOLTHOLE_SLOTS".to_owned(), slots.to_string()),
                ("BOLTHOLE_LEASE".to_owned(), LEASE.to_owned()),
                ("BOLTHOLE_SPILL_DIR".to_owned(), text(spill(folder))),
            ];
            let mut worker =
                Place::new(format!("worker-{place}"), vec!["worker".to_owned()], environment);
            worker.start(cluster)?;
            workers.push(worker);
        }
        let args = [
            "client".to_owned(),
            text(schedule(folder)),
            text(history(folder)),
            text(ledger(folder)),
        ];
        let mut client = Place::new("client".to_owned(), args.to_vec(), vec![]);
        client.start(cluster)?;
        Ok(Self { workers, client, finished: false, findings: Vec::new() })
    }

    /// Looks who has ended and who is due to start.
    pub(super) fn look(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let now = Instant::now();
        for place in &mut self.workers {
            if let Some(status) = place.ended()?
                && !(place.leaving && status.success())
            {
                let what = format!("{} ended by itself: {status}", place.name);
                self.findings.push(Finding::new(Invariant::Processes, what));
                place.back = Some(now);
            }
            if place.member.is_none() && place.back.is_some_and(|back| back <= now) {
                place.start(cluster)?;
            }
        }
        if let Some(status) = self.client.ended()? {
            self.finished = true;
            if !status.success() {
                let log = fs::read_to_string(self.client.log(cluster)).unwrap_or_default();
                let what = format!("the client gave up: {status}: {}", tail(&log, 3));
                self.findings.push(Finding::new(Invariant::Processes, what));
            }
        }
        if self.client.member.is_none() && self.client.back.is_some_and(|back| back <= now) {
            self.client.start(cluster)?;
        }
        Ok(())
    }

    /// Kills a worker; false when there is none at this place.
    pub(super) fn kill(&mut self, worker: usize, back: Option<Duration>) -> bool {
        self.workers.get_mut(worker).is_some_and(|place| place.kill(back))
    }

    /// Kills all workers.
    pub(super) fn kill_all(&mut self, back: Duration) -> bool {
        let killed = self.workers.iter_mut().map(|place| place.kill(Some(back)));
        killed.fold(false, |any, one| any | one)
    }

    /// Stops a worker, or lets it go on.
    pub(super) fn signal(&mut self, worker: usize, name: &str) -> bool {
        self.workers.get_mut(worker).is_some_and(|place| place.signal(name))
    }

    /// Tells a worker to go.
    pub(super) fn leave(&mut self, worker: usize, back: Option<Duration>) -> bool {
        let Some(place) = self.workers.get_mut(worker) else { return false };
        if place.leaving || place.stopped || !place.signal("TERM") {
            return false;
        }
        place.leaving = true;
        place.back = back.map(|back| Instant::now() + back);
        true
    }

    /// Kills the client, which another one follows.
    pub(super) fn kill_client(&mut self, back: Duration) -> bool {
        self.client.kill(Some(back))
    }

    /// Stops the client, or lets it go on.
    pub(super) fn signal_client(&mut self, name: &str) -> bool {
        self.client.signal(name)
    }

    /// Lets everybody go on and starts whoever is missing: at least one worker, and the client.
    pub(super) fn heal(&mut self) {
        for place in self.workers.iter_mut().chain([&mut self.client]) {
            if place.stopped {
                place.signal("CONT");
            }
        }
        let now = Instant::now();
        let here =
            |place: &Place| (place.member.is_some() && !place.leaving) || place.back.is_some();
        if !self.workers.iter().any(here)
            && let Some(first) = self.workers.first_mut()
        {
            first.back = Some(now);
        }
    }

    /// Tells every worker to go and waits until they have; false when one did not within `patience`.
    pub(super) async fn leave_all(
        &mut self,
        cluster: &Cluster,
        patience: Duration,
    ) -> anyhow::Result<bool> {
        for place in &mut self.workers {
            place.back = None;
            if !place.leaving && place.signal("TERM") {
                place.leaving = true;
            }
        }
        let deadline = Instant::now() + patience;
        loop {
            for place in &mut self.workers {
                place.back = None;
            }
            self.look(cluster)?;
            if self.workers.iter().all(|place| place.member.is_none()) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Where workers spill.
pub(super) fn spill(folder: &Path) -> PathBuf {
    folder.join("spill")
}

/// Where the ledgers are.
pub(super) fn ledger(folder: &Path) -> PathBuf {
    folder.join("ledger")
}

/// What the clients were told.
pub(super) fn history(folder: &Path) -> PathBuf {
    folder.join("history")
}

/// What is played.
pub(super) fn schedule(folder: &Path) -> PathBuf {
    folder.join("schedule.json")
}
