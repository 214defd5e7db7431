//! The child's side: from being asked to be one to the end.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bolthole_broker::call::{Call, Ctx, Outcome, States, Value};
use bolthole_broker::registry::Registry;
use rustix::process::{Resource, Rlimit, Signal};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::frames::{self, Job, Order, Report, Returned};
use crate::executor::{Execution, THREAD_PREFIX, install_panic_hook, run_here};

/// Names the socket on standard input: a process that inherits the variable, but has another
/// standard input, is no child of a worker.
pub(super) const SOCKET: &str = "BOLTHOLE_CHILD";
/// Bytes that a child may allocate.
pub(super) const MEMORY: &str = "BOLTHOLE_CHILD_MEMORY";

/// Whether a child of this process would find its way to [`serve`].
static POSSIBLE: AtomicBool = AtomicBool::new(false);
/// Whether this process is a child that serves its parent.
static SERVING: AtomicBool = AtomicBool::new(false);

/// Says that this program, started again with the same arguments, comes to [`serve`] before it does
/// anything that must not happen twice.
pub fn set_possible() {
    POSSIBLE.store(true, Ordering::Relaxed);
}

/// Whether [`set_possible`] was said.
pub fn is_possible() -> bool {
    POSSIBLE.load(Ordering::Relaxed)
}

/// Whether this process was started as a child and does not serve yet: it must come to [`serve`]
/// and do nothing else before.
pub fn asked() -> bool {
    !SERVING.load(Ordering::Relaxed)
        && variable(SOCKET).is_some_and(|socket| Some(socket) == stdin())
}

fn variable(name: &str) -> Option<u64> {
    std::env::var_os(name).and_then(|text: OsString| text.to_str()?.parse().ok())
}

/// The number of the file that is standard input.
fn stdin() -> Option<u64> {
    Some(rustix::fs::fstat(io::stdin()).ok()?.st_ino)
}

/// Runs what the parent sends, until it closes the socket. Call it when [`asked`] says so; it never
/// returns but with an error, before the first job.
///
/// # Errors
/// When the socket, a thread or a runtime cannot be had.
pub fn serve(registry: Registry, states: States) -> io::Result<Infallible> {
    SERVING.store(true, Ordering::Relaxed);
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What bodies start must not inherit the socket, nor be taken for a child.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    if let Some(bytes) = variable(MEMORY) {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::setrlimit(Resource::Data, limit)?;
    }
    // When memory runs out, the system is to take this process, not the worker.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    install_panic_hook();
    let user = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // The parent says when to go: a signal to all processes of a service is meant for it.
    let signals = {
        let _user = user.enter();
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]
    };
    let (jobs, work) = sync_channel(1);
    let replies = socket.try_clone()?;
    let handle = user.handle().clone();
    let body = thread::Builder::new().name(format!("{THREAD_PREFIX}child"));
    body.spawn(move || {
        let _signals = signals;
        let served =
            Servant { registry, states: Arc::new(states), user: handle }.work(&work, replies);
        tracing::debug!(?served, "the parent is gone");
        end();
    })?;
    let heard = listen(&mut BufReader::with_capacity(64 << 10, socket), &jobs);
    tracing::debug!(?heard, "no more jobs");
    end();
}

/// Ends this process and those that its bodies have started and left behind.
fn end() -> ! {
    let leads = rustix::process::getpgid(None).is_ok_and(|id| id == rustix::process::getpid());
    if leads {
        let _ = rustix::process::kill_current_process_group(Signal::KILL);
    }
    std::process::exit(0)
}

/// A job with the bytes that came with it, and what cancels it.
struct Work {
    job: Job,
    inputs: Vec<Value>,
    blobs: HashMap<bolthole_broker::args::BlobDigest, bytes::Bytes>,
    cancel: CancellationToken,
}

/// Reads orders until the parent is gone.
fn listen(socket: &mut BufReader<UnixStream>, jobs: &SyncSender<Work>) -> io::Result<()> {
    let mut current = CancellationToken::new();
    while let Some(order) = frames::read(socket)? {
        match order {
            Order::Cancel => current.cancel(),
            Order::Run(job) => {
                let mut inputs = Vec::with_capacity(job.inputs.len());
                for length in &job.inputs {
                    let bytes = frames::read_bytes(socket, *length)?;
                    inputs.push(Value { bytes, typed: None });
                }
                let mut blobs = HashMap::with_capacity(job.blobs.len());
                for (digest, length) in &job.blobs {
                    blobs.insert(*digest, frames::read_bytes(socket, *length)?);
                }
                let cancel = CancellationToken::new();
                current = cancel.clone();
                let work = Work { job, inputs, blobs, cancel };
                jobs.send(work).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

/// Runs jobs.
struct Servant {
    registry: Registry,
    states: Arc<States>,
    user: tokio::runtime::Handle,
}

impl Servant {
    /// Answers one job after the other.
    fn work(&self, jobs: &Receiver<Work>, socket: UnixStream) -> io::Result<()> {
        let mut socket = BufWriter::with_capacity(64 << 10, socket);
        frames::write(&mut socket, &Report::Ready, &[])?;
        while let Ok(work) = jobs.recv() {
            let (report, value) = self.run(work);
            // A frame is refused before any of it is written.
            match frames::write(&mut socket, &report, &value) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let unusable = Returned::Unusable(format!("what it returned: {error}"));
                    frames::write(&mut socket, &Report::Returned(unusable, Vec::new()), &[])?;
                }
                written => written?,
            }
        }
        Ok(())
    }

    fn run(&self, work: Work) -> (Report, bytes::Bytes) {
        let Work { job, inputs, blobs, cancel } = work;
        let none = bytes::Bytes::new();
        let Some(body) = self.registry.get(&job.task).map(|entry| entry.body) else {
            let message = format!("there is no task {:?} in the child", job.task);
            return (Report::Returned(Returned::Unusable(message), Vec::new()), none);
        };
        let header: Arc<BTreeMap<String, String>> = Arc::new(job.header);
        let ctx = Ctx::new(job.run, job.id, job.attempt, cancel.clone(), header);
        ctx.give_units(job.units);
        let states = Arc::clone(&self.states);
        let call = Call { args: job.args, inputs, blobs, states, ctx };
        match run_here(body, &call, &cancel, &self.user) {
            Execution::Returned { outcome, submitted } => {
                let (returned, value) = match outcome {
                    Outcome::Done(value) => {
                        (Returned::Value(value.bytes.len() as u64), value.bytes)
                    }
                    Outcome::Forwarded(captured) => (Returned::Forwarded(captured), none),
                    Outcome::Failed(failure) => {
                        let (chain, encoded) = (failure.chain, failure.encoded);
                        (Returned::Failed { chain, encoded }, none)
                    }
                    Outcome::Unusable(message) => (Returned::Unusable(message), none),
                };
                (Report::Returned(returned, submitted), value)
            }
            Execution::Panicked { message, backtrace } => {
                (Report::Panicked { message, backtrace }, none)
            }
            _ => (Report::Cancelled, none),
        }
    }
}
