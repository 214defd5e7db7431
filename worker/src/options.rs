//! How a worker is set up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bolthole_broker::durable::Folder;
use bolthole_broker::handoff::ClusterSecret;
use bolthole_broker::limits;
use bolthole_broker::task::DEFAULT_QUEUE;

use crate::simulate::Simulated;

/// In which order tasks of one priority and one run get slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// As they are numbered: one output's cone after the other, so that few results are kept at a
    /// time, and a slot that runs on finds its inputs here.
    #[default]
    Cone,
    /// What has the longest way to go first, so that slots have work to the end.
    Path,
    /// As they come: what the others are measured against.
    Arrival,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cone" => Ok(Self::Cone),
            "path" => Ok(Self::Path),
            "arrival" => Ok(Self::Arrival),
            _ => Err("an order is `cone`, `path` or `arrival`".to_owned()),
        }
    }
}

/// Something that workers do so that graphs end sooner, and that one can do without, to see what it
/// is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tactic {
    /// Tasks wait for a slot where the large results are that they use.
    Locality,
    /// Idle workers get half of what waits at others.
    Sharing,
    /// Short tasks start on results that are not committed yet.
    Ahead,
}

impl FromStr for Tactic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "locality" => Ok(Self::Locality),
            "sharing" => Ok(Self::Sharing),
            "ahead" => Ok(Self::Ahead),
            _ => Err("a tactic is `locality`, `sharing` or `ahead`".to_owned()),
        }
    }
}

/// Everything about a worker that is not its tasks or its servers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Tasks to run at once; by default as many as there are processors.
    pub slots: usize,
    /// Queues to serve.
    pub queues: Vec<String>,
    /// The order in which tasks get slots; by default what suits them: [`Order::Path`] while they
    /// last and memory is plentiful, else [`Order::Cone`].
    pub order: Option<Order>,
    /// What this worker does not do: for measurements. It makes nothing safer.
    pub without: Vec<Tactic>,
    /// What tasks may ask for by name, such as `gpu`: a task runs only while as much is free as it
    /// asks for, and a worker that has too little never runs it.
    pub resources: BTreeMap<String, u32>,
    /// Where peers and clients reach the data port; `None` for a worker that shares its process
    /// with the only client.
    pub bind: Option<SocketAddr>,
    /// What others should dial instead of the bound address, such as a container's outer name.
    pub advertise: Option<String>,
    /// What peers and clients must know; without one the data port stays on loopback.
    pub secret: Option<ClusterSecret>,
    /// Memory for results, in bytes; by default what the machine or its control group allows.
    pub memory_bytes: u64,
    /// How long a task whose result does not fit into memory waits while none is freed and nothing
    /// can be moved to disk, before it has failed; by default [`limits::MEMORY_WAIT`].
    pub memory_wait: Duration,
    /// Where results go when memory is short; by default the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// The result folder, in which outputs and what effects return outlive the workers; without one
    /// they are copied to a second worker.
    pub results: Option<Folder>,
    /// How long after this worker's last sign of life others may take over what it runs and count
    /// it as gone, from [`limits::WORKER_LEASE_MIN`] to [`limits::WORKER_LEASE_MAX`]. It shows
    /// [`limits::WORKER_RENEWALS`] times in that time that it lives. Workers of one cluster should
    /// have the same: before one judges others, it waits for two leases of its own.
    pub lease: Duration,
    /// A run without progress for this long is searched for lost work; by default as long as the
    /// lease.
    pub reconcile: Option<Duration>,
    /// Where health and metrics are served.
    pub health: Option<SocketAddr>,
    /// The most tasks that one commit finishes, 1 to [`limits::COMMIT_TASKS_MAX`], which is the
    /// default. 1 shows what commits of many tasks are worth; it makes nothing safer.
    pub tasks_per_commit: usize,
    /// In a simulation: its place there. It opens no socket then and starts no thread.
    pub simulated: Option<Simulated>,
    /// Child processes for tasks that must not run in this one; `None` for none, as it must be where
    /// this program, started again, would not come to [`crate::child::serve`].
    pub children: Option<ChildOptions>,
}

/// Which tasks run in child processes, besides those that ask for it and those that are suspects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChildOptions {
    /// Those of these queues; `*` stands for all.
    pub queues: Vec<String>,
    /// The most that one child may allocate, in bytes.
    pub memory_bytes: Option<u64>,
}

impl ChildOptions {
    /// Whether all tasks of a queue run in children.
    pub(crate) fn takes(&self, queue: &str) -> bool {
        self.queues.iter().any(|name| name == queue || name == "*")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            queues: vec![DEFAULT_QUEUE.to_owned()],
            order: None,
            without: Vec::new(),
            resources: BTreeMap::new(),
            bind: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            advertise: None,
            secret: None,
            memory_bytes: crate::memory::limit_bytes(),
            memory_wait: limits::MEMORY_WAIT,
            spill_dir: Some(std::env::temp_dir()),
            results: None,
            lease: limits::WORKER_LEASE,
            reconcile: None,
            health: None,
            tasks_per_commit: limits::COMMIT_TASKS_MAX,
            simulated: None,
            children: None,
        }
    }
}
