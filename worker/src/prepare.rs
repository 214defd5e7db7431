//! From a task's id to a task with everything it needs: descriptor, header, inputs, blobs, and for
//! some a lease. Whatever keeps it from running here is found out here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bolthole_broker::args::Arg;
use bolthole_broker::call::{Call, Ctx, States, Value};
use bolthole_broker::clock;
use bolthole_broker::descriptor::Descriptor;
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::lineage::Lineage;
use bolthole_broker::locator::HeldRecord;
use bolthole_broker::registry::{Registry, TaskEntry};
use bolthole_broker::run::{Header, Ready};
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Error, Store};
use bolthole_broker::task::{RELAY, TaskClass, TaskKind};
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::copies::Copier;
use crate::core::Describe;
use crate::flight::{Doubt, Key, Prepared, Runnable, TaskInfo, Wanted};
use crate::inputs::{Input, InputError, Inputs};
use crate::known::Known;
use crate::options::ChildOptions;
use crate::turns::Turns;
use crate::values::Values;

mod follow;
mod missing;
mod start;

use missing::{lost_of, without_inputs};
use start::{Complete, Start, Waiting};

/// The wait before the store is asked again, doubled each time up to the second.
const STORE_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why a task that asks for a process of its own is not run in this program.
const NO_CHILDREN: &str = "it is to run in a process of its own, for which this program would be \
     started again: call `bolthole::worker::serve_as_child()` first of all in `main`";

/// Prepares tasks.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub(crate) store: Store,
    pub(crate) known: Arc<Known>,
    pub(crate) values: Arc<Values>,
    pub(crate) inputs: Inputs,
    pub(crate) registry: Registry,
    pub(crate) states: Arc<States>,
    pub(crate) queues: std::collections::HashSet<String>,
    /// Where results of effects are safe before they count.
    pub(crate) copier: Arc<Copier>,
    pub(crate) turns: Turns,
    /// Which tasks run in children, when there can be any.
    pub(crate) children: Option<ChildOptions>,
    /// What tasks may ask for here.
    pub(crate) resources: BTreeMap<String, u32>,
    /// Since when tasks wait that this build cannot run.
    pub(crate) parked: Parked,
    /// Ends all attempts when the worker must go.
    pub(crate) stop: CancellationToken,
}

/// What the store says of tasks, and digests of results they had before.
type Checked = (Vec<Option<Ready>>, BTreeMap<TaskId, [u8; 16]>);

impl Preparer {
    /// Prepares those tasks that need nothing from elsewhere; and the others.
    pub(crate) fn all_at_once(
        &self,
        run: RunId,
        tasks: Vec<Wanted>,
    ) -> (Vec<(Key, Prepared)>, Vec<Wanted>) {
        let mut here = Vec::with_capacity(tasks.len());
        let mut elsewhere = Vec::new();
        for wanted in tasks {
            match self.at_once(run, &wanted) {
                Some(prepared) => here.push(((run, wanted.ready.task), prepared)),
                None => elsewhere.push(wanted),
            }
        }
        (here, elsewhere)
    }

    /// Prepares a task from what is in memory, or not at all.
    pub(crate) fn at_once(&self, run: RunId, wanted: &Wanted) -> Option<Prepared> {
        if wanted.doubt != Doubt::None || wanted.ready.forwarded.is_some() {
            return None;
        }
        let info = wanted.info.clone().or_else(|| self.known.describe(run, wanted.ready.task))?;
        if info.class().kind == TaskKind::Effect || self.isolates(info.class()) {
            return None;
        }
        let header = self.known.header_at_hand(run)?;
        if let Some(unfit) = self.unfit(run, wanted.ready, &info) {
            return Some(unfit);
        }
        let lead = wanted.lazy.as_ref();
        let mut inputs = Vec::with_capacity(info.descriptor().inputs.len());
        for input in &info.descriptor().inputs {
            let continuing = lead.map(|lead| lead.nonce_of(*input));
            inputs.push(self.inputs.at_hand(run, *input, continuing)?);
        }
        let mut blobs = HashMap::new();
        for digest in blobs_of(info.descriptor()) {
            blobs.insert(digest, self.known.blob_at_hand(run, digest)?);
        }
        let nonce = clock::random_u64();
        Some(self.assemble(
            run,
            wanted.ready,
            info,
            inputs,
            blobs,
            &header,
            Start { depth: lead.map_or(0, |lead| lead.depth), ..Start::first(nonce) },
        ))
    }

    /// Prepares tasks of one run. Asks again for as long as the store does not answer.
    pub(crate) async fn prepare(&self, run: RunId, tasks: &[Wanted]) -> Vec<(Key, Prepared)> {
        let mut wait = STORE_WAIT.0;
        // The same in every try: a lease whose answer was lost is this attempt's own.
        let nonces: Vec<u64> = tasks.iter().map(|_| clock::random_u64()).collect();
        loop {
            match self.try_prepare(run, tasks, &nonces).await {
                Ok(prepared) => return prepared,
                Err(error) if error.is_retryable() && !self.stop.is_cancelled() => {
                    tracing::warn!(%run, %error, "cannot prepare tasks; trying again");
                    sleep(wait).await;
                    wait = (wait * 2).min(STORE_WAIT.1);
                }
                Err(error) => {
                    tracing::error!(%run, %error, "cannot prepare tasks");
                    let dropped = |wanted: &Wanted| {
                        ((run, wanted.ready.task), Prepared::Drop { rearmed: Vec::new() })
                    };
                    return tasks.iter().map(dropped).collect();
                }
            }
        }
    }

    async fn try_prepare(
        &self,
        run: RunId,
        tasks: &[Wanted],
        nonces: &[u64],
    ) -> Result<Vec<(Key, Prepared)>, InputError> {
        let missing: Vec<TaskId> = tasks
            .iter()
            .filter(|wanted| wanted.info.is_none())
            .map(|wanted| wanted.ready.task)
            .collect();
        self.known.load(run, &missing).await?;
        let header = self.known.header(run).await?;
        let (checked, earlier) = self.check(run, tasks).await?;
        let mut prepared = Vec::with_capacity(tasks.len());
        let mut waiting = Vec::new();
        for ((wanted, nonce), ready) in tasks.iter().zip(nonces).zip(checked) {
            let key = (run, wanted.ready.task);
            let info = wanted.info.clone().or_else(|| self.known.describe(run, wanted.ready.task));
            let (Some(ready), Some(info), Some(_)) = (ready, info, header.as_ref()) else {
                prepared.push((key, Prepared::Drop { rearmed: Vec::new() }));
                continue;
            };
            match self.unfit(run, ready, &info) {
                Some(unfit) => prepared.push((key, unfit)),
                None => waiting.push(Waiting { ready, info, doubt: wanted.doubt, nonce: *nonce }),
            }
        }
        let needed = waiting.iter().flat_map(|one| one.info.inputs(&one.ready).to_vec());
        let mut needed: Vec<TaskId> = needed.collect();
        needed.sort_unstable();
        needed.dedup();
        let doubtful = waiting.iter().any(|one| one.doubt != Doubt::None);
        let mut inputs = self.inputs.gather(run, needed, doubtful).await?;
        let waits = self.hand_back(run, &waiting, &mut inputs).await;
        let lineage = Lineage { store: &self.store, fetcher: &self.inputs.fetcher, facts: self };
        let recovered = lineage.recover(run, lost_of(&waiting, &inputs)).await?;
        let mut rearmed = recovered.ready.clone();
        let again = waiting.iter().any(|one| one.doubt == Doubt::Repeated);
        let deadly = again && self.turns.has_anyone_died().await?;
        let mut complete = Vec::with_capacity(waiting.len());
        for mut one in waiting {
            let (key, ready) = ((run, one.ready.task), one.ready);
            let wait = waits.get(&ready.task).copied();
            let without = without_inputs(ready, &one.info, &inputs, wait, &recovered, &mut rearmed);
            if let Some(end) = without {
                prepared.push((key, end));
                continue;
            }
            if deadly && one.doubt == Doubt::Repeated {
                one.doubt = Doubt::DEADLY;
            }
            match self.complete(run, one, &inputs).await? {
                Ok(one) => complete.push(one),
                Err(end) => prepared.push((key, end)),
            }
        }
        let header = header.unwrap_or_default();
        for (key, mut end) in self.start(run, complete, &header).await? {
            if let Prepared::Run(runnable) = &mut end {
                runnable.earlier = earlier.get(&key.1).copied();
            }
            prepared.push((key, end));
        }
        Ok(prepared)
    }

    /// Asks the store where tasks stand that a repeated or old message names; and the digests of
    /// results that some of them had before, and that others have used.
    async fn check(&self, run: RunId, tasks: &[Wanted]) -> Result<Checked, Error> {
        let doubtful: Vec<TaskId> = tasks
            .iter()
            .filter(|wanted| wanted.doubt != Doubt::None)
            .map(|wanted| wanted.ready.task)
            .collect();
        let mut statuses = Vec::new();
        if !doubtful.is_empty() {
            statuses = self.store.inspect(run, &doubtful).await?;
        }
        let mut statuses = statuses.into_iter();
        let mut earlier = BTreeMap::new();
        let checked = tasks.iter().map(|wanted| {
            if wanted.doubt == Doubt::None {
                return Some(wanted.ready);
            }
            let status = statuses.next().flatten()?;
            let ready = status.state.state() == TaskState::Pending && status.pending == 0;
            let forwarded = status.forwarded();
            let generation = status.state.generation();
            let record = status.record.filter(|_| forwarded.is_none());
            if let Some(Ok(record)) = record.map(|record| HeldRecord::from_bytes(&record)) {
                earlier.insert(wanted.ready.task, record.digest);
            }
            ready.then_some(Ready { task: wanted.ready.task, generation, forwarded })
        });
        Ok((checked.collect(), earlier))
    }

    /// Why this worker cannot run the task, if it cannot.
    fn unfit(&self, run: RunId, ready: Ready, info: &TaskInfo) -> Option<Prepared> {
        let class = info.class();
        if !self.queues.contains(&class.options.queue) {
            return Some(Prepared::Elsewhere);
        }
        let expired = class.options.expires_ms.is_some_and(|end| end <= clock::unix_ms());
        if expired {
            let message = "it was not started by the time its caller set".to_owned();
            let kind = TaskErrorKind::Expired;
            return Some(Prepared::Fail { ready, info: info.clone(), attempt: 1, kind, message });
        }
        let until = |start: u64| start.saturating_sub(clock::unix_ms());
        let early = class.options.not_before_ms.map_or(0, until);
        if early > 0 {
            let wait = Duration::from_millis(early);
            return Some(Prepared::Later { ready, info: info.clone(), wait });
        }
        if is_relay(ready, info) {
            return None;
        }
        if class.options.isolated && self.children.is_none() {
            let (kind, message) = (TaskErrorKind::NoCapableWorker, NO_CHILDREN.to_owned());
            return Some(Prepared::Fail { ready, info: info.clone(), attempt: 1, kind, message });
        }
        let (kind, message) = match self.registry.get(&class.task) {
            None => (
                TaskErrorKind::NoCapableWorker,
                format!(
                    "this worker has no task {:?}: link the crate that defines it into the worker",
                    class.task
                ),
            ),
            Some(entry) if entry.signature != class.signature => (
                TaskErrorKind::Signature,
                format!(
                    "task {:?} is {} for the client and {} for this worker: build both from the \
                     same source",
                    class.task, class.signature, entry.signature
                ),
            ),
            Some(_) => match self.lacking(class) {
                Some(message) => (TaskErrorKind::NoCapableWorker, message),
                None => return None,
            },
        };
        if self.parked.is_over((run, ready.task)) {
            return Some(Prepared::Fail { ready, info: info.clone(), attempt: 1, kind, message });
        }
        Some(Prepared::Park { info: info.clone(), message })
    }

    /// Whether tasks of a class run in processes of their own.
    fn isolates(&self, class: &TaskClass) -> bool {
        let takes = |children: &ChildOptions| children.takes(&class.options.queue);
        class.options.isolated || self.children.as_ref().is_some_and(takes)
    }

    /// Which resource this worker has too little of, in all, for tasks of a class.
    fn lacking(&self, class: &TaskClass) -> Option<String> {
        let mut needed = class.options.resources.iter();
        let (name, amount) = needed
            .find(|(name, amount)| self.resources.get(*name).is_none_or(|own| own < amount))?;
        let own = self.resources.get(name).copied().unwrap_or(0);
        Some(format!("it needs {name} = {amount}, and this worker has {own}"))
    }

    /// The task with its inputs, which are all here; without one of its parts, what becomes of it.
    async fn complete(
        &self,
        run: RunId,
        task: Waiting,
        inputs: &HashMap<TaskId, Input>,
    ) -> Result<Result<Complete, Prepared>, Error> {
        let Waiting { ready, ref info, .. } = task;
        let mut values = Vec::with_capacity(info.inputs(&ready).len());
        for input in info.inputs(&ready) {
            let Some(Input::Value(value)) = inputs.get(input) else {
                return Ok(Err(Prepared::Drop { rearmed: Vec::new() }));
            };
            values.push(value.clone());
        }
        let mut blobs = HashMap::new();
        for digest in blobs_of(info.descriptor()) {
            let Some(bytes) = self.known.blob(run, digest).await? else {
                let message = "the store has lost one of its large arguments".to_owned();
                let (kind, info) = (TaskErrorKind::DataLost, info.clone());
                return Ok(Err(Prepared::Fail { ready, info, attempt: 1, kind, message }));
            };
            blobs.insert(digest, bytes);
        }
        Ok(Ok(Complete { task, inputs: values, blobs }))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one call, gathered in two ways")]
    fn assemble(
        &self,
        run: RunId,
        ready: Ready,
        info: TaskInfo,
        inputs: Vec<Value>,
        blobs: HashMap<bolthole_broker::args::BlobDigest, Bytes>,
        header: &Arc<Header>,
        start: Start,
    ) -> Prepared {
        let key = (run, ready.task);
        if is_relay(ready, &info) {
            return self.relay(key, ready, info, inputs, start.nonce);
        }
        let Some(entry) = self.entry(&info) else {
            let message = "the task's signature differs on this worker".to_owned();
            return self.unfit(run, ready, &info).unwrap_or(Prepared::Park { info, message });
        };
        let cancel = self.stop.child_token();
        let ctx = Ctx::new(run, ready.task, start.attempt, cancel.clone(), Arc::clone(header));
        let args = info.descriptor().args.clone();
        let states = Arc::clone(&self.states);
        Prepared::Run(Box::new(Runnable {
            key,
            ready,
            info,
            body: entry.body,
            call: Call { args, inputs, blobs, states, ctx },
            attempt: start.attempt,
            nonce: start.nonce,
            leased: start.leased,
            earlier: None,
            isolated: start.isolated,
            suspect: start.suspect,
            crashes: start.crashes,
            depth: start.depth,
            cancel,
        }))
    }

    fn entry(&self, info: &TaskInfo) -> Option<&'static TaskEntry> {
        let class = info.class();
        let entry = self.registry.get(&class.task)?;
        (entry.signature == class.signature).then_some(entry)
    }

    /// Hands an input on as the task's own result, without a copy.
    fn relay(
        &self,
        key: Key,
        ready: Ready,
        info: TaskInfo,
        inputs: Vec<Value>,
        nonce: u64,
    ) -> Prepared {
        let Some(value) = inputs.into_iter().next() else {
            return Prepared::Drop { rearmed: Vec::new() };
        };
        match self.values.keep(key, ready.generation, nonce, value, false) {
            Ok(result) => Prepared::Relayed { ready, info, nonce, result },
            Err(error) => Prepared::Fail {
                ready,
                info,
                attempt: 1,
                kind: TaskErrorKind::Unusable,
                message: error.to_string(),
            },
        }
    }
}

impl Describe for Preparer {
    fn describe(&self, run: RunId, task: TaskId) -> Option<TaskInfo> {
        self.known.describe(run, task)
    }

    fn has(&self, (run, task): Key) -> bool {
        self.inputs.at_hand(run, task, None).is_some()
    }
}

/// Tasks that no worker could run so far, as far as this one has seen: each waits at most
/// [`limits::PARK_MAX`] for a worker that can.
#[derive(Debug, Default)]
pub(crate) struct Parked(Mutex<HashMap<Key, Instant>>);

impl Parked {
    /// Notes that a task could not be run here; whether it has waited for too long.
    fn is_over(&self, key: Key) -> bool {
        let now = Instant::now();
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that another worker took in the end are forgotten after twice the time.
        since.retain(|_, first| now < *first + 2 * limits::PARK_MAX);
        now >= *since.entry(key).or_insert(now) + limits::PARK_MAX
    }
}

fn is_relay(ready: Ready, info: &TaskInfo) -> bool {
    ready.forwarded.is_some() || info.class().task == RELAY
}

/// The blobs that a call's arguments name.
fn blobs_of(descriptor: &Descriptor) -> Vec<bolthole_broker::args::BlobDigest> {
    let mut digests = Vec::new();
    let mut open: Vec<&Arg> = descriptor.args.iter().collect();
    while let Some(arg) = open.pop() {
        match arg {
            Arg::Blob { digest, .. } => digests.push(*digest),
            Arg::List(items) => open.extend(items),
            Arg::Value(_) | Arg::Input(_) => {}
        }
    }
    digests
}
