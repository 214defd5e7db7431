//! A cluster that a seed determines.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::call::States;
use bolthole_broker::clock;
use bolthole_broker::limits::WORKER_LEASE;
use tokio::time::{sleep, timeout};

use super::faults::{Faults, Kind};
use super::report::Report;
use super::weather::{Inside, Weather};
use super::world::{Setup, World};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::Outputs;

/// How much virtual time a simulation may take, unless told otherwise.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A simulated cluster: client, workers, queue and store on one thread, on a virtual clock, with
/// faults on purpose. The code of client and workers is the one that runs on real clusters. What
/// happens follows from the seed alone, as far as tasks do: one that reads the real clock or draws
/// its own random numbers makes two runs of a seed differ.
///
/// Waits take no real time: those of the system, `tokio::time::sleep` in tasks, waits between
/// attempts. A task that blocks its thread blocks the whole simulation.
///
/// ```
/// use std::time::Duration;
///
/// use bolthole::testing::Simulation;
/// use bolthole::{Ctx, task};
///
/// #[task(retries = 2, backoff = "1m..5m")]
/// fn fetch(ctx: &Ctx, page: u32) -> Result<u32, String> {
///     if ctx.attempt() == 1 && page == 3 {
///         return Err("the server is busy".to_owned());
///     }
///     Ok(page * 10)
/// }
///
/// let pages: Vec<_> = (1..=4).map(fetch::delayed).collect();
/// let mut simulation = Simulation::new(42)
///     .workers(2)
///     .takes("fetch", Duration::from_secs(30))
///     .crash_at(2)
///     .lose_messages(0.1);
/// assert_eq!(simulation.compute(pages).unwrap(), [10, 20, 30, 40]);
///
/// let report = simulation.report();
/// assert_eq!(report.crashes(), 1);
/// assert!(report.attempts("fetch") >= 6, "one was repeated, one cut short: {report}");
/// assert!(report.elapsed >= Duration::from_secs(60), "of virtual time");
/// ```
#[derive(Debug)]
#[must_use = "a simulation does nothing until it runs"]
pub struct Simulation {
    seed: u64,
    setup: Setup,
    faults: Faults,
    takes: BTreeMap<String, Duration>,
    limit: Duration,
    keep: bool,
    report: Report,
}

/// A simulation did not come to its end in its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not over after {0:?} of virtual time")]
pub struct Stuck(pub Duration);

impl Simulation {
    /// A cluster with two workers of two slots each, on which nothing goes wrong.
    pub fn new(seed: u64) -> Self {
        let setup = Setup {
            workers: 2,
            slots: 2,
            lease: WORKER_LEASE,
            resources: BTreeMap::new(),
            states: States::new(),
        };
        Self {
            seed,
            setup,
            faults: Faults::default(),
            takes: BTreeMap::new(),
            limit: LIMIT,
            keep: false,
            report: Report::default(),
        }
    }

    /// So many workers. One that crashes is followed by another within 2 s.
    pub fn workers(mut self, workers: usize) -> Self {
        self.setup.workers = workers;
        self
    }

    /// Tasks that each worker runs at once.
    pub fn slots(mut self, slots: usize) -> Self {
        self.setup.slots = slots;
        self
    }

    /// So much on each worker of something that tasks may ask for by name, such as one `gpu`.
    pub fn resource(mut self, name: impl Into<String>, amount: u32) -> Self {
        self.setup.resources.insert(name.into(), amount);
        self
    }

    /// Keeps `value` for parameters of type `State<S>`, on every worker.
    pub fn state<S: Any + Send + Sync>(mut self, value: S) -> Self {
        self.setup.states.insert(TypeId::of::<S>(), Arc::new(value));
        self
    }

    /// Tasks of this name take so much virtual time, beside what their code waits for. The name may
    /// lack the path of its module.
    pub fn takes(mut self, task: impl Into<String>, time: Duration) -> Self {
        self.takes.insert(task.into(), time);
        self
    }

    /// A worker crashes now and then, with so much virtual time in between in the mean.
    pub fn crash_every(mut self, mean: Duration) -> Self {
        self.faults.every.insert(Kind::Crash, mean);
        self
    }

    /// A worker stops for up to three leases now and then, and then goes on.
    pub fn pause_every(mut self, mean: Duration) -> Self {
        self.faults.every.insert(Kind::Pause, mean);
        self
    }

    /// The store cannot be reached for up to 30 s now and then.
    pub fn outage_every(mut self, mean: Duration) -> Self {
        self.faults.every.insert(Kind::Outage, mean);
        self
    }

    /// The worker crashes that starts the attempt of this number: 1 is the first of all.
    pub fn crash_at(mut self, attempt: u64) -> Self {
        self.faults.crash_at.insert(attempt);
        self
    }

    /// This share of attempts ends with a crash of their worker; from 0 to 1.
    pub fn crash_in(mut self, share: f64) -> Self {
        self.faults.crashes = share;
        self
    }

    /// This share of messages between client and workers is lost; from 0 to 1.
    pub fn lose_messages(mut self, share: f64) -> Self {
        self.faults.lost_messages = share;
        self
    }

    /// All faults at once, in place of those set before.
    #[doc(hidden)]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// How long a lease stands.
    #[doc(hidden)]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.setup.lease = lease;
        self
    }

    /// Panics after so much virtual time; a day, unless told otherwise.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Keeps every step, for [`Report::history`].
    pub fn keep_history(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Computes the outputs on a new cluster. Needs no runtime and may be called from anywhere.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn compute<O: Outputs + Send>(&mut self, outputs: O) -> Result<O::Values>
    where
        O::Values: Send,
    {
        self.run(async move |client: Client| client.compute(outputs).await)
    }

    /// Runs a program with a client of a new cluster, and returns what it returns. Needs no runtime
    /// and may be called from anywhere; takes a thread for its time.
    ///
    /// # Panics
    /// When the program panics, and when it is not over after [`Self::limit`] of virtual time: then
    /// something waits for what will never come.
    pub fn run<T, F>(&mut self, program: F) -> T
    where
        T: Send,
        F: AsyncFnOnce(Client) -> T + Send,
    {
        let ran = self.try_run(async move |client: Client, _: &Inside| program(client).await);
        match ran {
            Ok(Ok(value)) => value,
            Ok(Err(stuck)) => panic!("{stuck}: {}", self.report),
            Err(error) => panic!("the simulation cannot start: {error}"),
        }
    }

    /// What happened in the last run.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// As [`Self::run`], with a look behind the scenes.
    #[doc(hidden)]
    pub fn try_run<T, F>(&mut self, program: F) -> Result<Result<T, Stuck>>
    where
        T: Send,
        F: AsyncFnOnce(Client, &Inside) -> T + Send,
    {
        let name = "bolthole-simulation".to_owned();
        let ran = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name);
            let ran = thread.spawn_scoped(scope, || self.simulate(program));
            let ran = ran.map_err(|error| no_start(&error))?;
            ran.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let (ran, report) = ran?;
        self.report = report;
        Ok(ran)
    }

    fn simulate<T, F>(&self, program: F) -> Result<(Result<T, Stuck>, Report)>
    where
        F: AsyncFnOnce(Client, &Inside) -> T,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| no_start(&error))?;
        runtime.block_on(async {
            let _seeded = clock::seeded(self.seed);
            let (faults, takes) = (self.faults.clone(), self.takes.clone());
            let weather = Weather::new(self.seed, faults.clone(), takes, self.keep);
            let world = World::new(self.setup.clone(), faults, Arc::clone(&weather))?;
            let inside = world.inside();
            let client = loop {
                match world.client().await {
                    Ok(client) => break client,
                    Err(_) => sleep(Duration::from_secs(1)).await,
                }
            };
            let ran = tokio::select! {
                biased;
                ran = timeout(self.limit, program(client, &inside)) => ran,
                Err(failed) = world.turn() => return Err(failed),
            };
            Ok((ran.map_err(|_| Stuck(self.limit)), weather.report()))
        })
    }
}

fn no_start(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("failed to start the simulation: {error}"))
}
