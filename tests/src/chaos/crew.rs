//! Workers and the client of a play, as processes: started, watched, harmed and replaced.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::fault::{Fault, Harm};
use super::network::Network;
use super::place::{Hit, Place, aborted, history, ledger, read_hits, rules, schedule, spill};
use super::schedule::Schedule;
use crate::check::{Finding, Invariant};
use crate::cluster::{Cluster, Member, PATIENCE};
use crate::servers::Pair;
use crate::sockets::{self, Socket};

/// The lease of workers that come to harm: short, so that the dead are found while one waits.
const LEASE: &str = "1s";
/// That of workers which are left in peace: a busy machine must not make them look dead.
const CALM_LEASE: &str = "15s";

/// How soon a process that could not start is started again.
const RESTART: Duration = Duration::from_millis(200);

/// The signal that tells a worker to go.
const SIGTERM: i32 = 15;

/// All processes of a play.
#[derive(Debug)]
pub(super) struct Crew {
    workers: Vec<Place>,
    client: Place,
    /// Workers of lost hosts: stopped for good.
    lost: Vec<Member>,
    /// The client has done all that it was started for.
    pub(super) finished: bool,
    /// Whether a server may be away when a process starts.
    rough: bool,
    /// What went wrong without having been made to.
    pub(super) findings: Vec<Finding>,
    /// What failpoints have done so far.
    pub(super) hits: Vec<Hit>,
    /// How many of them were handed out.
    known_hits: usize,
}

impl Crew {
    /// Starts a worker with so many slots at each place, then the client.
    pub(super) fn start(
        cluster: &Cluster,
        plan: &Schedule,
        network: &Network,
        pair: &Pair,
    ) -> anyhow::Result<Self> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let folder = cluster.folder();
        for folder in [spill(folder), ledger(folder)] {
            fs::create_dir(&folder)?;
        }
        let lease = if plan.faults.is_empty() { CALM_LEASE } else { LEASE };
        let mut workers = Vec::with_capacity(plan.workers.len());
        for (place, slots) in plan.workers.iter().enumerate() {
            let mut environment = vec![
                ("BOLTHOLE_SLOTS".to_owned(), slots.to_string()),
                ("BOLTHOLE_LEASE".to_owned(), lease.to_owned()),
                ("BOLTHOLE_SPILL_DIR".to_owned(), text(spill(folder))),
            ];
            environment.extend(network.environment(Some(place), pair));
            let (name, args) = (format!("worker-{place}"), vec!["worker".to_owned()]);
            let mut worker = Place::new(name, args, environment, rules(plan, Some(place)));
            worker.start(cluster)?;
            workers.push(worker);
        }
        let args = [
            "client".to_owned(),
            text(schedule(folder)),
            text(history(folder)),
            text(ledger(folder)),
        ];
        let environment = network.environment(None, pair);
        let rules = rules(plan, None);
        let mut client = Place::new("client".to_owned(), args.to_vec(), environment, rules);
        client.start(cluster)?;
        let (findings, hits, lost) = (Vec::new(), Vec::new(), Vec::new());
        let rough = |fault: &Fault| matches!(fault.harm, Harm::Net { .. });
        let rough = plan.harms_servers() || plan.faults.iter().any(rough);
        let (finished, known_hits) = (false, 0);
        Ok(Self { workers, client, lost, finished, rough, findings, hits, known_hits })
    }

    /// Looks who has ended and who is due to start.
    pub(super) fn look(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let now = Instant::now();
        for place in &mut self.workers {
            if let Some((process, status)) = place.ended()?
                && !(place.leaving && status.success())
            {
                read_hits(cluster, &mut self.hits)?;
                place.back = Some(now + place.lasts + RESTART);
                // Nobody can start while a server is away: whoever watches over it tries again.
                let begun = fs::read_to_string(place.log(cluster))?.contains("worker started");
                // The signal to go may come before there is anything to take it.
                let early = place.leaving && !begun && status.signal() == Some(SIGTERM);
                if !aborted(&self.hits, process) && !early && (begun || !self.rough) {
                    let what = format!("{} ended by itself: {status}", place.name);
                    self.findings.push(Finding::new(Invariant::Processes, what));
                }
            }
            if place.member.is_none() && place.back.is_some_and(|back| back <= now) {
                place.start(cluster)?;
            }
        }
        if let Some((process, status)) = self.client.ended()? {
            read_hits(cluster, &mut self.hits)?;
            let said = fs::read_to_string(history(cluster.folder())).unwrap_or_default();
            let begun = said.lines().any(|line| line.starts_with(&format!("{process} ")));
            let again = aborted(&self.hits, process) || (self.rough && !begun);
            self.finished = !again;
            if again {
                self.client.back = Some(now + self.client.lasts + RESTART);
            } else if !status.success() {
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

    /// What failpoints have done since the last call, with how long it lasts. Whose process that was
    /// is known as long as it lives.
    pub(super) fn new_hits(&mut self, cluster: &Cluster) -> anyhow::Result<Vec<(Hit, Duration)>> {
        read_hits(cluster, &mut self.hits)?;
        let mut fresh = Vec::new();
        let known = std::mem::replace(&mut self.known_hits, self.hits.len());
        for hit in &mut self.hits[known..] {
            let places = self.workers.iter_mut().enumerate();
            let places =
                places.map(|(at, place)| (Some(at), place)).chain([(None, &mut self.client)]);
            for (who, place) in places.filter(|(_, place)| place.is(hit.process)) {
                hit.who = who;
                place.stopped |= hit.action == "stop";
                fresh.push((hit.clone(), place.lasts));
            }
        }
        Ok(fresh)
    }

    /// Starts a worker and waits until it is there, so that it clears up after the others.
    pub(super) async fn sweep(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let Some(first) = self.workers.first_mut() else { return Ok(()) };
        first.start(cluster)?;
        let log = first.log(cluster);
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log)?.contains("consuming") {
            anyhow::ensure!(Instant::now() < deadline, "no worker that clears up");
            tokio::time::sleep(Duration::from_millis(10)).await;
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

    /// Stops a worker for good. Who takes its place goes through none of its proxies.
    pub(super) fn lose(&mut self, worker: usize, back: Option<Duration>) -> bool {
        let Some(place) = self.workers.get_mut(worker) else { return false };
        if place.stopped || !place.signal("STOP") {
            return false;
        }
        self.lost.extend(place.member.take());
        place.environment.retain(|(name, _)| !Network::VARIABLES.contains(&name.as_str()));
        place.back = back.map(|back| Instant::now() + back);
        place.stopped = false;
        true
    }

    /// Kills the workers of lost hosts.
    pub(super) fn bury(&mut self) {
        self.lost.clear();
    }

    /// Open sockets of all processes that live.
    pub(super) fn sockets(&self) -> anyhow::Result<Vec<Socket>> {
        let members = self.workers.iter().chain([&self.client]).filter_map(|p| p.member.as_ref());
        let ids: Vec<u32> = members.map(Member::id).collect();
        sockets::of(&ids)
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
        self.heal_stopped();
        let now = Instant::now();
        let here =
            |place: &Place| (place.member.is_some() && !place.leaving) || place.back.is_some();
        if !self.workers.iter().any(here)
            && let Some(first) = self.workers.first_mut()
        {
            first.back = Some(now);
        }
    }

    fn heal_stopped(&mut self) {
        for place in self.workers.iter_mut().chain([&mut self.client]) {
            if place.stopped {
                place.signal("CONT");
            }
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
            self.new_hits(cluster)?;
            self.heal_stopped();
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
