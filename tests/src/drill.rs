//! One fault at one place of the protocol, and proof that it did no harm: a worker, or a client,
//! aborts or stops exactly there, others go on, and the answer is right, every task was committed
//! once, and the fault did happen.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bolthole::Client;
use bolthole_broker::audit::{Summary, check};
use bolthole_broker::failpoint::Point;
use bolthole_broker::store::Store;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, Member, PATIENCE, underway, until};
use crate::servers::Pair;
use crate::workload::{self, HOLD};

/// The lease of all workers here.
const LEASE: Duration = Duration::from_secs(1);
/// How long every task lasts, in milliseconds: longer than a task runs without a lease.
const LONG: &str = "300";
/// How long a worker that is told to go finishes what it has begun.
const DRAIN: Duration = Duration::from_secs(5);
/// A worker's memory for results, in bytes.
const MEMORY: &str = "DRILL_MEMORY";
/// So little that they must go to disk.
const LITTLE: &str = "4194304";
/// The name of a drill's run.
const RUN: &str = "drill";

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process ends at once.
    Abort,
    /// The process stops for longer than its lease, then goes on.
    Stop,
    /// What is done there fails.
    Fail,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drill {
    /// Where.
    pub point: Point,
    /// What.
    pub action: Action,
    /// At which time that the place is reached, from one.
    pub hit: u64,
}

impl fmt::Display for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Abort => "abort",
            Action::Stop => "stop",
            Action::Fail => "error(ENOSPC)",
        };
        write!(f, "{}={action}@{}", self.point.name(), self.hit)
    }
}

impl Drill {
    /// Every fault once, at the `round`-th round of them: later ones hit other times.
    pub fn all(round: u64) -> Vec<Self> {
        let mut all = Vec::new();
        for point in Point::ALL {
            let actions: &[Action] = match point {
                Point::SpillWrite | Point::CommitAfterReply => {
                    &[Action::Abort, Action::Stop, Action::Fail]
                }
                _ => &[Action::Abort, Action::Stop],
            };
            let hit = 1 + round % most_hits(*point);
            all.extend(actions.iter().map(|action| Self { point: *point, action: *action, hit }));
        }
        all
    }
}

/// Whether it is the client that reaches the place.
fn is_client(point: Point) -> bool {
    let of_client = [
        Point::StageBefore,
        Point::ActivateBeforeSend,
        Point::ActivateAfterReply,
        Point::SubmitPublished,
    ];
    of_client.contains(&point)
}

/// How often a worker that is alone with the graph certainly reaches the place.
fn most_hits(point: Point) -> u64 {
    match point {
        _ if is_client(point) => 1,
        Point::DrainMid | Point::SpillWrite | Point::PublishBefore => 1,
        // At first it publishes that it is there.
        Point::PublishUnconfirmed => 2,
        Point::HandoffMid => 3,
        Point::LeaseBefore | Point::LeaseAfter => 4,
        _ => 5,
    }
}

/// The processes of a drill: `worker`, or `client`.
///
/// # Errors
/// When it cannot do what it should.
#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
pub async fn member(role: &str) -> Result<()> {
    match role {
        "worker" => {
            let mut worker = bolthole::worker::from_env()?.drain(DRAIN);
            if let Ok(bytes) = std::env::var(MEMORY) {
                worker = worker.memory_bytes(bytes.parse()?);
            }
            Ok(worker.run_async().await?)
        }
        "client" => {
            let client = Client::from_env().await?;
            let best = client.run(RUN).compute(workload::etl()).await?;
            println!("answer {}", best.context("there is nothing to compare")?);
            Ok(())
        }
        _ => bail!("worker | client"),
    }
}

/// Carries a drill out with processes of `program`; what the store has written down of it.
///
/// # Errors
/// When the promise was broken, or the fault did not happen.
pub async fn drill(program: &Path, servers: &Pair, drill: Drill) -> Result<Summary> {
    let field = Field::open(program, servers, drill).await?;
    let done = if is_client(drill.point) { field.client().await } else { field.worker().await };
    done.with_context(|| format!("{drill}"))
}

/// Where a drill takes place.
struct Field {
    cluster: Cluster,
    store: Store,
    drill: Drill,
    rules: String,
    fired: PathBuf,
}

impl Field {
    async fn open(program: &Path, servers: &Pair, drill: Drill) -> Result<Self> {
        let cluster = Cluster::new(program, servers)?;
        let store = cluster.store().await?;
        store.start_audit().await?;
        let fired = cluster.folder().join("fired");
        Ok(Self { cluster, store, drill, rules: drill.to_string(), fired })
    }

    /// The environment of the process that is to be harmed.
    fn harmed(&self) -> Result<Vec<(&str, &str)>> {
        let log = self.fired.to_str().context("a path without surprises")?;
        let mut environment = vec![("BOLTHOLE_FAILPOINTS", self.rules.as_str())];
        environment.extend([("BOLTHOLE_FAILPOINTS_LOG", log), ("BOLTHOLE_LEASE", "1s")]);
        if self.drill.point == Point::SpillWrite {
            environment.push((MEMORY, LITTLE));
        }
        Ok(environment)
    }

    /// A worker is harmed while it is alone with a graph; another one comes.
    async fn worker(&self) -> Result<Summary> {
        // The fault may happen while it starts.
        let mut victim = self.cluster.start("victim", &["worker"], &self.harmed()?)?;
        let client = self.cluster.client().await?;
        let run = client.run(RUN).header(HOLD, LONG);
        let computing = tokio::spawn(run.compute(workload::mixed()));
        if self.drill.point == Point::DrainMid {
            underway(&client, RUN, 3).await?;
            victim.signal("TERM")?;
        }
        self.fired().await?;
        let leased = [("BOLTHOLE_LEASE", "1s")];
        let mut other = self.cluster.worker_with("other", &leased).await?;
        match self.drill.action {
            Action::Abort => gone(&mut victim).await?,
            Action::Stop => {
                sleep(2 * LEASE).await;
                victim.signal("CONT")?;
            }
            Action::Fail => {}
        }
        let (answer, large) = timeout(PATIENCE, computing).await.context("no answer")???;
        ensure!(answer == workload::mixed_answer(), "the answer is {answer:?}");
        ensure!(large == workload::bytes_of(workload::LARGE, 0), "the large result is another");
        ensure!(other.is_running()?, "the other worker has ended: {}", other.output()?);
        if self.drill.point == Point::DrainMid {
            gone(&mut victim).await?;
        } else if self.drill.action != Action::Abort {
            ensure!(victim.is_running()?, "it has ended: {}", victim.output()?);
        }
        self.judge().await
    }

    /// A client aborts or stops while it submits a graph; the same client comes again, and the first
    /// one goes on.
    async fn client(&self) -> Result<Summary> {
        let mut worker = self.cluster.worker_with("worker", &[("BOLTHOLE_LEASE", "1s")]).await?;
        let mut first = self.cluster.start("first", &["client"], &self.harmed()?)?;
        self.fired().await?;
        if self.drill.action == Action::Abort {
            gone(&mut first).await?;
        }
        let run = self.store.find(RUN).await?.context("the run was opened")?;
        let status = self.store.status(run).await?.context("a run that was opened")?;
        let accepted =
            matches!(self.drill.point, Point::ActivateAfterReply | Point::SubmitPublished);
        if accepted {
            ensure!(status.tasks > 0, "the graph was accepted: {status:?}");
            until("the graph is finished without its client", async || {
                let status = self.store.status(run).await?.context("the run is gone")?;
                Ok((status.finished == status.tasks).then_some(()))
            })
            .await?;
        } else {
            ensure!(status.tasks == 0, "half a graph is there: {status:?}");
        }
        if self.drill.action == Action::Stop {
            // As a worker does when it has heard nothing of a client for the minute of its lease.
            self.store.close(run).await?;
        }
        let mut answers = vec![self.cluster.start("second", &["client"], &[])?.answer()?];
        if self.drill.action == Action::Stop {
            first.signal("CONT")?;
            answers.push(first.answer()?);
        }
        let right = answers.iter().all(|answer| Some(*answer) == workload::etl_answer());
        ensure!(right, "the answers are {answers:?}");
        ensure!(worker.is_running()?, "the worker has ended: {}", worker.output()?);
        self.judge().await
    }

    /// Waits until the fault has happened.
    async fn fired(&self) -> Result<()> {
        until("the fault has happened", async || {
            Ok(fs::read_to_string(&self.fired).is_ok_and(|log| !log.is_empty()).then_some(()))
        })
        .await
    }

    /// Every task was committed once, and the fault happened once.
    async fn judge(&self) -> Result<Summary> {
        let log = fs::read_to_string(&self.fired)?;
        let expected = format!("{} {} ", self.drill.point.name(), self.drill.hit);
        let once = log.lines().count() == 1 && log.starts_with(&expected);
        ensure!(once, "the fault did not happen as it should: {log:?}");
        let run = self.store.find(RUN).await?.context("the run is gone")?;
        // An output that was read already, and that its holder took along, is computed again for
        // whoever attaches to the run.
        let status = until("all is finished", async || {
            let status = self.store.status(run).await?.context("the run is gone")?;
            Ok((status.finished == status.tasks).then_some(status))
        })
        .await?;
        ensure!(status.failed == 0, "{status:?}");
        let summary = match check(&self.store.audit().await?) {
            Ok(summary) => summary,
            Err(violations) => {
                let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
                bail!("{}", all.join("\n"));
            }
        };
        let expected = status.tasks + summary.rearmed;
        ensure!(summary.committed == expected, "{expected} commits: {summary:?}");
        Ok(summary)
    }
}

async fn gone(member: &mut Member) -> Result<()> {
    until("the process has ended", async || Ok((!member.is_running()?).then_some(()))).await
}
