//! `task::submit(&run, ..)`: a call on its way into a run.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use bolthole_broker::id::TaskId;

use crate::capture::capture;
use crate::client::Client;
use crate::delayed::Delayed;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Handle;
use crate::run::{Run, RunInner};
use crate::submit::Submit;
use crate::writer::Entry;

/// A submitted call: `.await` it for the handle. The call is on its way already; waiting for it
/// holds back a program that submits faster than the store takes.
#[must_use = "await the submission: it waits for room, and says when the call was not taken"]
pub struct Submission<T> {
    state: State<T>,
}

enum State<T> {
    Done(Result<Handle<T>>),
    Waiting(Submitting<T>),
}

type Submitting<T> = Pin<Box<dyn Future<Output = Result<Handle<T>>> + Send>>;

impl<T: 'static> IntoFuture for Submission<T> {
    type Output = Result<Handle<T>>;
    type IntoFuture = Submitting<T>;

    fn into_future(self) -> Submitting<T> {
        match self.state {
            State::Done(result) => Box::pin(std::future::ready(result)),
            State::Waiting(waiting) => waiting,
        }
    }
}

/// A run that takes calls.
impl Submit for Run {
    type Handle<T> = Submission<T>;

    fn submit_delayed<T>(&self, call: Delayed<T>) -> Submission<T> {
        let run = Arc::clone(self.inner());
        let mut entry = match entry_of(&run, &call) {
            Ok(entry) => entry,
            Err(error) => return Submission { state: State::Done(Err(error)) },
        };
        let tried = run.writer().and_then(|writer| writer.try_submit(&mut entry));
        let state = match tried {
            Ok(Some(tasks)) => State::Done(handle_of(run, &tasks)),
            Err(error) => State::Done(Err(error)),
            Ok(None) => State::Waiting(Box::pin(async move {
                let tasks = run.writer()?.submit(entry).await?;
                handle_of(run, &tasks)
            })),
        };
        Submission { state }
    }
}

/// A client opens a run for the call, which takes no other.
impl Submit for Client {
    type Handle<T> = Submission<T>;

    fn submit_delayed<T>(&self, call: Delayed<T>) -> Submission<T> {
        let graph = match capture(&[&call]) {
            Ok(graph) => graph,
            Err(error) => return Submission { state: State::Done(Err(error.into())) },
        };
        let builder = self.unnamed();
        let submitted = self.core().runtime.spawn(async move { builder.submit_one(graph).await });
        Submission {
            state: State::Waiting(Box::pin(async move {
                let (run, task) = submitted.await.map_err(|_| {
                    Error::new(ErrorKind::Closed, "the client's runtime has stopped")
                })??;
                Ok(Handle::new(run, task))
            })),
        }
    }
}

pub(crate) fn entry_of<T>(run: &RunInner, call: &Delayed<T>) -> Result<Entry> {
    let graph = capture(&[call])?;
    if graph.run.is_some_and(|other| other != run.id) {
        let message = "the call uses a handle of another run: gather its result and pass the value";
        return Err(Error::new(ErrorKind::Config, message));
    }
    Entry::new(graph, true)
}

pub(crate) fn handle_of<T>(run: Arc<RunInner>, tasks: &[TaskId]) -> Result<Handle<T>> {
    let task = tasks.first().copied();
    let missing = || Error::new(ErrorKind::Store, "the call has no task");
    task.map(|task| Handle::new(run, task)).ok_or_else(missing)
}
