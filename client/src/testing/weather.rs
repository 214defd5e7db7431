//! What the parties of a simulation meet with: how long things take, and what becomes of them. Every
//! step is drawn here and written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bolthole_broker::clock::Random;
use bolthole_broker::limits::STORE_ANSWER;
use bolthole_broker::line::{Fate, Line};
use bolthole_broker::queue::{MemoryBroker, Queue, QueueName, Route};
use bolthole_broker::store::Store;
use bolthole_worker::simulate::{Attempt, Process, Script};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::Faults;
use super::report::{Ended, Execution, Log, Report};

/// One request in so many takes long.
const SLOW_ONE_IN: usize = 300;
/// How long, at most.
const SLOW_MS: u64 = 3_000;
/// The longest that a late message is late.
const LATE_MS: u64 = 2_000;

/// The weather of a simulation.
pub(super) struct Weather {
    sky: Mutex<Sky>,
    /// Told when a worker has crashed in an attempt.
    pub(super) crashed: Notify,
}

struct Sky {
    random: Random,
    faults: Faults,
    takes: BTreeMap<String, Duration>,
    began: Instant,
    /// Nothing more goes wrong.
    calm: bool,
    store_down: bool,
    cut: BTreeSet<u32>,
    log: Log,
}

impl Weather {
    pub(super) fn new(
        seed: u64,
        faults: Faults,
        takes: BTreeMap<String, Duration>,
        keep: bool,
    ) -> Arc<Self> {
        let sky = Sky {
            // Not the numbers that the protocol draws.
            random: Random::new(!seed),
            faults,
            takes,
            began: Instant::now(),
            calm: false,
            store_down: false,
            cut: BTreeSet::new(),
            log: Log::new(seed, keep),
        };
        Arc::new(Self { sky: Mutex::new(sky), crashed: Notify::new() })
    }

    fn sky(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a party says and does goes through the reply.
    pub(super) fn actor(self: &Arc<Self>, party: u32, process: Option<Process>) -> Arc<Actor> {
        Arc::new(Actor { weather: Arc::clone(self), party, process })
    }

    /// Draws a number below `bound`.
    pub(super) fn below(&self, bound: usize) -> usize {
        self.sky().random.below(bound)
    }

    /// A time that is `mean` in the mean, and at most eight times that.
    pub(super) fn around(&self, mean: Duration) -> Duration {
        let drawn = self.below(1 << 20);
        #[expect(clippy::cast_precision_loss, reason = "20 bits fit")]
        let uniform = (drawn + 1) as f64 / f64::from(1 << 20);
        let seconds = mean.as_secs_f64() * (-uniform.ln()).min(8.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive time of some hours at most"
        )]
        let ms = (seconds * 1000.0).ceil() as u64;
        Duration::from_millis(ms.max(1))
    }

    pub(super) fn step(&self, what: fmt::Arguments<'_>) {
        let mut sky = self.sky();
        let at = sky.began.elapsed();
        sky.log.step(at, what);
    }

    pub(super) fn fault(&self, name: &'static str) {
        let mut sky = self.sky();
        let at = sky.began.elapsed();
        sky.log.fault(at, name);
    }

    pub(super) fn set_store_down(&self, down: bool) {
        self.sky().store_down = down;
    }

    pub(super) fn set_cut(&self, party: u32, cut: bool) {
        let mut sky = self.sky();
        if cut {
            sky.cut.insert(party)
        } else {
            sky.cut.remove(&party)
        };
    }

    /// Whether nothing more may go wrong.
    pub(super) fn is_calm(&self) -> bool {
        let mut sky = self.sky();
        let over = sky.faults.until.is_some_and(|until| sky.began.elapsed() >= until);
        sky.calm |= over;
        sky.calm
    }

    /// What has happened so far.
    pub(super) fn report(&self) -> Report {
        let sky = self.sky();
        let mut report = sky.log.report.clone();
        report.elapsed = sky.began.elapsed();
        report
    }
}

/// What a program in a simulation may see and do beside its client: for tests of the system itself.
pub struct Inside {
    pub(super) weather: Arc<Weather>,
    pub(super) store: Store,
    pub(super) queue: Queue,
    pub(super) broker: MemoryBroker,
}

impl Inside {
    /// The store itself, at the end of no line.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Messages that wait in the lanes of a queue or are with a consumer.
    pub async fn messages(&self, queue: &QueueName) -> usize {
        let mut messages = self.broker.unsettled();
        for route in Route::all(queue) {
            messages += self.queue.depth(&route).await.unwrap_or(0) as usize;
        }
        messages
    }

    /// Nothing more goes wrong; what is going on comes to its end.
    pub fn calm(&self) {
        self.weather.sky().calm = true;
    }

    /// Takes down what the program has seen.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        self.weather.step(what);
    }

    /// What has happened so far.
    pub fn report(&self) -> Report {
        self.weather.report()
    }
}

impl Sky {
    /// How long something is on its way, in whole milliseconds.
    fn latency(&mut self) -> Duration {
        let max = u64::try_from(self.faults.latency.as_millis()).unwrap_or(0);
        if max == 0 || self.random.one_in(2) {
            return Duration::ZERO;
        }
        if !self.calm && self.random.one_in(SLOW_ONE_IN) {
            // Slower than a lease may be, so whatever runs again has its reason.
            self.log.fault(self.began.elapsed(), "slow line");
            return Duration::from_millis(self.random.draw() % SLOW_MS);
        }
        Duration::from_millis(self.random.draw() % (max + 1))
    }

    fn fate(&mut self) -> Fate {
        if self.calm {
            return Fate::Answered;
        }
        let Faults { unanswered, lost_requests, refused, .. } = self.faults;
        if self.random.happens(unanswered) {
            Fate::Unanswered
        } else if self.random.happens(lost_requests) {
            Fate::Lost
        } else if self.random.happens(refused) {
            Fate::Refused
        } else {
            Fate::Answered
        }
    }

    /// How long the body of this attempt takes.
    fn takes(&mut self, name: &str) -> Duration {
        let given = self.takes.iter().find(|(task, _)| {
            let module = name.strip_suffix(task.as_str());
            module.is_some_and(|module| module.is_empty() || module.ends_with("::"))
        });
        if let Some((_, takes)) = given {
            return *takes;
        }
        let max = u64::try_from(self.faults.bodies.as_millis()).unwrap_or(0);
        match (max, self.random.below(8)) {
            (0, _) | (_, 0..5) => Duration::ZERO,
            (_, 5..7) => Duration::from_millis(self.random.draw() % (max / 8 + 1)),
            _ => Duration::from_millis(self.random.draw() % (max + 1)),
        }
    }
}

/// One party: the client, or a worker.
pub(super) struct Actor {
    weather: Arc<Weather>,
    party: u32,
    process: Option<Process>,
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "party {}", self.party)
    }
}

/// Whether a request is one to the store.
fn is_to_store(request: &str) -> bool {
    !(request.starts_with("publish") || request == "broadcast")
}

impl Line for Actor {
    fn depart(&self, _: &'static str) -> Duration {
        self.weather.sky().latency()
    }

    fn arrive(&self, request: &'static str) -> (Fate, Duration) {
        let calm = self.weather.is_calm();
        let mut sky = self.weather.sky();
        let at = sky.began.elapsed();
        let down = sky.cut.contains(&self.party) || sky.store_down && is_to_store(request);
        let fate = if down { Fate::Refused } else { sky.fate() };
        let mut back = sky.latency();
        let lost = matches!(fate, Fate::Lost | Fate::Unanswered);
        // A broken connection is noticed at once, a silent one when the answer is overdue.
        if lost && !calm && sky.random.one_in(4) {
            back = STORE_ANSWER;
        }
        if lost || fate == Fate::Refused && !down {
            sky.log.fault(
                at,
                match fate {
                    Fate::Lost => "request lost",
                    Fate::Unanswered => "answer lost",
                    _ => "connection refused",
                },
            );
        }
        sky.log.step(at, format_args!("{} {request} {fate:?}", self.party));
        (fate, back)
    }

    fn copies(&self, body: &[u8]) -> Vec<Duration> {
        let calm = self.weather.is_calm();
        let mut sky = self.weather.sky();
        let at = sky.began.elapsed();
        let sum = body.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(*byte));
        sky.log.step(at, format_args!("{} message {sum:08x}", self.party));
        let Faults { lost_messages, repeated_messages, late_messages, .. } = sky.faults;
        if calm {
            return vec![Duration::ZERO];
        }
        if sky.random.happens(lost_messages) {
            sky.log.fault(at, "message lost");
            return Vec::new();
        }
        let mut copies = vec![Duration::ZERO];
        if sky.random.happens(late_messages) {
            sky.log.fault(at, "message late");
            copies = vec![Duration::from_millis(1 + sky.random.draw() % LATE_MS)];
        }
        if sky.random.happens(repeated_messages) {
            sky.log.fault(at, "message repeated");
            copies.push(Duration::from_millis(sky.random.draw() % LATE_MS));
        }
        copies
    }
}

impl Script for Actor {
    fn starts(&self, attempt: &Attempt<'_>) -> Duration {
        let calm = self.weather.is_calm();
        let mut sky = self.weather.sky();
        let at = sky.began.elapsed();
        let Attempt { run, task, number, generation, nonce, name, .. } = *attempt;
        sky.log.step(at, format_args!("{} starts {task} {number} {generation}", self.party));
        let takes = sky.takes(name);
        let share = sky.faults.crashes;
        let count = sky.log.report.executions.len() as u64 + 1;
        let crashes = sky.faults.crash_at.contains(&count)
            || !calm && share > 0.0 && sky.random.happens(share);
        if crashes {
            sky.log.fault(at, "crash");
            if let Some(process) = &self.process {
                process.kill();
            }
            self.weather.crashed.notify_one();
        }
        sky.log.report.executions.push(Execution {
            name: name.to_owned(),
            run,
            task,
            worker: self.party,
            attempt: number,
            generation,
            nonce,
            began: at,
            ended: if crashes { Ended::Crashed } else { Ended::No },
        });
        takes
    }

    fn ended(&self, attempt: &Attempt<'_>) {
        let mut sky = self.weather.sky();
        let at = sky.began.elapsed();
        sky.log.step(at, format_args!("{} ended {}", self.party, attempt.task));
        let mut executions = sky.log.report.executions.iter_mut().rev();
        let found = executions.find(|execution| execution.nonce == attempt.nonce);
        if let Some(execution) = found {
            execution.ended = Ended::Yes;
        }
    }
}
