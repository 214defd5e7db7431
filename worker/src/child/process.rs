//! One child, as its parent sees it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bolthole_broker::call::{Failure, Outcome, Value};
use bolthole_broker::graph::Captured;
use bolthole_broker::limits;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::entry::{MEMORY, SOCKET};
use super::frames::{self, Job, Order, Report, Returned};
use crate::executor::Execution;
use crate::flight::Runnable;

/// How long a child that has closed its socket may take to end, before it is ended.
const DYING: Duration = Duration::from_secs(2);
/// How long its last words are waited for: what it has started may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Lines of its output that an error quotes, and bytes of each.
const LINES_MAX: usize = 20;
const LINE_BYTES_MAX: usize = 500;

/// A child that takes jobs. Dropped, it is killed, with all that it has started.
pub(super) struct Process {
    child: Child,
    /// Its process group, until it was waited for: from then on the number may be another's.
    group: Option<Pid>,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    lines: Arc<Lines>,
    outputs: [JoinHandle<()>; 2],
}

/// The last lines that a child wrote.
#[derive(Debug, Default)]
struct Lines(Mutex<VecDeque<String>>);

impl Process {
    /// Starts this program again and waits until it is ready; the error says why it never is.
    pub(super) async fn start(memory_bytes: Option<u64>) -> Result<Self, String> {
        let mut process = Self::spawn(memory_bytes).map_err(|error| error.to_string())?;
        let ready = timeout(limits::CHILD_START, frames::receive(&mut process.reader)).await;
        let reason = match ready {
            Ok(Ok(Report::Ready)) => return Ok(process),
            Ok(Ok(other)) => format!("it began with {other:?}"),
            Ok(Err(_)) => process.post_mortem().await.0,
            Err(_) => format!("it was not ready after {:?}", limits::CHILD_START),
        };
        let lines = process.lines.take().join(" | ");
        Err(format!("a child of this program did not come to be one: {reason}: {lines}"))
    }

    fn spawn(memory_bytes: Option<u64>) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = rustix::fs::fstat(&theirs)?.st_ino;
        let mut args = std::env::args_os();
        // This very build, also when its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(args.next().unwrap_or_else(|| "child".into())).args(args);
        command.env(SOCKET, socket.to_string());
        if let Some(bytes) = memory_bytes {
            command.env(MEMORY, bytes.to_string());
        }
        // A group of its own: a key press that ends the worker is not for it, and whatever it
        // starts ends with it.
        command.process_group(0).kill_on_drop(true);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        drop(command);
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id.and_then(Pid::from_raw);
        let lines = Arc::<Lines>::default();
        let outputs = [
            follow(child.stdout.take(), id.unwrap_or(0), &lines),
            follow(child.stderr.take(), id.unwrap_or(0), &lines),
        ];
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let reader = BufReader::with_capacity(64 << 10, reader);
        Ok(Self { child, group, reader, writer, lines, outputs })
    }

    /// Runs one attempt. With the end of it comes the child, when it can take another job.
    pub(super) async fn run(mut self, runnable: &Runnable) -> (Execution, Option<Self>) {
        drop(self.lines.take());
        let overdue = async {
            runnable.cancel.cancelled().await;
            sleep(limits::CHILD_GRACE).await;
        };
        let told = tokio::select! {
            told = self.exchange(runnable) => told,
            () = overdue => {
                self.kill();
                return (Execution::Cancelled, None);
            }
        };
        match told {
            Ok(execution) => (execution, Some(self)),
            // It lives: what is to be said cannot be said.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let message = format!("it cannot be run in a child process: {error}");
                let (outcome, submitted) = (Outcome::Unusable(message), Vec::new());
                (Execution::Returned { outcome, submitted }, None)
            }
            // What it was told to end it may end in its own way.
            Err(_) if runnable.cancel.is_cancelled() => (Execution::Cancelled, None),
            Err(error) => {
                tracing::debug!(%error, "a child is gone");
                let (how, last_lines) = self.post_mortem().await;
                (Execution::Crashed { how, last_lines }, None)
            }
        }
    }

    async fn exchange(&mut self, runnable: &Runnable) -> io::Result<Execution> {
        let call = &runnable.call;
        let job = Job {
            task: runnable.info.class().task.clone(),
            run: runnable.key.0,
            id: runnable.key.1,
            attempt: runnable.attempt,
            header: call.ctx.headers().clone(),
            units: call.ctx.units(),
            args: call.args.clone(),
            inputs: call.inputs.iter().map(|input| input.bytes.len() as u64).collect(),
            blobs: call.blobs.iter().map(|(digest, blob)| (*digest, blob.len() as u64)).collect(),
        };
        self.writer.write_all(&frames::encode(&Order::Run(job))?).await?;
        for bytes in call.inputs.iter().map(|input| &input.bytes).chain(call.blobs.values()) {
            self.writer.write_all(bytes).await?;
        }
        let (reader, writer) = (&mut self.reader, &mut self.writer);
        let mut answer = std::pin::pin!(answer(reader));
        let mut told = false;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                () = runnable.cancel.cancelled(), if !told => {
                    told = true;
                    writer.write_all(&frames::encode(&Order::Cancel)?).await?;
                }
            }
        }
    }

    /// Kills it, and what it has started.
    fn kill(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.start_kill();
    }

    /// How it ended, and the last lines it wrote. It has closed its socket, or never opened it.
    async fn post_mortem(&mut self) -> (String, Vec<String>) {
        let by_itself = timeout(DYING, self.child.wait()).await;
        // Its number is still its own while it was not waited for; what it has started is in its
        // group for as long as it lives.
        self.kill();
        let status = match by_itself {
            Ok(status) => status,
            Err(_) => self.child.wait().await,
        };
        self.group = None;
        let _ = timeout(LAST_WORDS, async {
            for output in &mut self.outputs {
                let _ = output.await;
            }
        })
        .await;
        let lines = self.lines.take();
        let how = match status {
            Ok(status) => describe(status, &lines),
            Err(error) => format!("it ended in an unknown way ({error})"),
        };
        (how, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.outputs.iter().for_each(JoinHandle::abort);
    }
}

/// Reads what became of a job.
async fn answer(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Execution> {
    Ok(match frames::receive(reader).await? {
        Report::Returned(returned, submitted) => {
            let outcome = match returned {
                Returned::Value(length) => {
                    let bytes = frames::receive_bytes(reader, length).await?;
                    Outcome::Done(Value { bytes, typed: None })
                }
                Returned::Forwarded(captured) => Outcome::Forwarded(captured),
                Returned::Failed { chain, encoded } => Outcome::Failed(Failure { chain, encoded }),
                Returned::Unusable(message) => Outcome::Unusable(message),
            };
            let submitted: Vec<Captured> = submitted;
            Execution::Returned { outcome, submitted }
        }
        Report::Panicked { message, backtrace } => Execution::Panicked { message, backtrace },
        Report::Cancelled => Execution::Cancelled,
        Report::Ready => return Err(io::Error::other("it said twice that it is ready")),
    })
}

/// Writes a child's output to the log of this process.
fn follow<R>(output: Option<R>, pid: i32, lines: &Arc<Lines>) -> JoinHandle<()>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let lines = Arc::clone(lines);
    tokio::spawn(async move {
        let Some(output) = output else { return };
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(true) = next_line(&mut output, &mut line).await {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            tracing::info!(target: "bolthole::child", pid, "{text}");
            lines.push(text);
        }
    })
}

/// The next line, cut to [`LINE_BYTES_MAX`]; false at the end.
async fn next_line(
    output: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    let mut some = false;
    loop {
        let piece = output.fill_buf().await?;
        if piece.is_empty() {
            return Ok(some);
        }
        some = true;
        let end = piece.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(piece.len(), |end| end + 1);
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend_from_slice(&piece[..used.min(room)]);
        output.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

impl Lines {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn take(&self) -> Vec<String> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        lines.into()
    }
}

/// How a process ended, in words for whoever wrote the task.
fn describe(status: ExitStatus, lines: &[String]) -> String {
    let said = |what: &str| lines.iter().any(|line| line.contains(what));
    match (status.signal(), status.code()) {
        (Some(6), _) if said("has overflowed its stack") => {
            "its stack overflowed (SIGABRT)".to_owned()
        }
        (Some(6), _) if said("memory allocation of") => {
            "it was given no more memory (SIGABRT)".to_owned()
        }
        (Some(6), _) => "it aborted (SIGABRT)".to_owned(),
        (Some(9), _) => {
            "it was killed (SIGKILL): by the system, out of memory? or by someone".into()
        }
        (Some(4), _) => "it came upon an illegal instruction (SIGILL)".to_owned(),
        (Some(7), _) => "it read from where nothing is (SIGBUS)".to_owned(),
        (Some(11), _) => "it read or wrote where it must not (SIGSEGV)".to_owned(),
        (Some(other), _) => format!("signal {other} ended it"),
        (None, Some(code)) => format!("it ended its process with code {code}"),
        (None, None) => "it ended in an unknown way".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_and_the_last_ones_kept() {
        let long = "x".repeat(10 * LINE_BYTES_MAX);
        let text = format!("{long}\nshort\nlast");
        let mut output = BufReader::with_capacity(7, text.as_bytes());
        let mut line = Vec::new();
        assert!(next_line(&mut output, &mut line).await.unwrap());
        assert_eq!(line.len(), LINE_BYTES_MAX);
        let lines = Lines::default();
        while next_line(&mut output, &mut line).await.unwrap() {
            for _ in 0..LINES_MAX {
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        }
        assert_eq!(lines.take(), vec!["last"; LINES_MAX]);
        assert!(lines.take().is_empty());
    }

    #[test]
    fn an_end_is_told_in_words() {
        let overflow = ["thread 'x' (1) has overflowed its stack".to_owned()];
        assert!(describe(ExitStatus::from_raw(6), &overflow).contains("stack"));
        assert!(describe(ExitStatus::from_raw(6), &[]).contains("aborted"));
        assert!(describe(ExitStatus::from_raw(9), &[]).contains("memory"));
        assert!(describe(ExitStatus::from_raw(3 << 8), &[]).contains("code 3"));
    }
}
