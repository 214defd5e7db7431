//! What the processes of a play do: a worker, or a client that asks for the schedule's graph by a
//! name, in the manner of the schedule, and writes down what it is told.
//!
//! ```text
//! PROCESS MILLISECONDS connected | submitted RUN | output PLACE done DIGEST | output PLACE error WHY
//! PROCESS MILLISECONDS again PLACE … | end STATE
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bolthole::submit::Submit as _;
use bolthole::{Client, Error, Handle, Run, TaskId};
use bolthole_broker::clock;

use super::schedule::{Manner, Schedule};
use crate::dag::{self, Dag};
use crate::ledger::LEDGER;
use crate::workload::HOLD;

/// The name of a play's run.
pub(super) const RUN: &str = "play";
/// How long a worker that is told to go finishes what it has begun.
const DRAIN: Duration = Duration::from_secs(5);
/// How often a run that is to be cancelled is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A worker, as the environment says, until it is told to go.
///
/// # Errors
/// When it cannot be started.
pub async fn worker() -> anyhow::Result<()> {
    Ok(bolthole::worker::from_env()?.drain(DRAIN).run_async().await?)
}

/// A client: does with the schedule's graph what the schedule says, and reads every output twice.
///
/// # Errors
/// When something else than a task fails.
pub async fn client(schedule: &Path, history: &Path, ledger: &str) -> anyhow::Result<()> {
    let schedule = Schedule::load(schedule)?;
    let client = Client::from_env().await?;
    say(history, "connected")?;
    let run = client.run(RUN).policy(schedule.policy).header(LEDGER, ledger);
    let run = run.header(HOLD, schedule.hold_ms.to_string());
    let (run, handles) = if schedule.manner == Manner::OneByOne {
        let run = run.open().await?;
        let handles = one_by_one(&run, &schedule.dag).await;
        run.close().await?;
        (run, handles)
    } else {
        let handles = run.submit(schedule.dag.calls()).await?;
        let run = handles.first().context("a graph has outputs")?.in_run();
        (run, handles.into_iter().map(Ok).collect())
    };
    say(history, &format!("submitted {}", run.id()))?;
    match schedule.manner {
        Manner::AsCompleted => return as_completed(&client, &run, handles, history).await,
        Manner::Cancel(finished) => cancel(&run, finished).await?,
        Manner::InOrder | Manner::OneByOne => {}
    }
    read(&handles, "output", history).await?;
    let status = run.wait().await?;
    say(history, &format!("end {:?}", status.state))?;
    read(&handles, "again", history).await
}

type Handles = Vec<Result<Handle<String>, Error>>;

/// Submits every task for itself; the outputs. A run that has failed takes no more: those that it
/// did not take have the reason in their place.
async fn one_by_one(run: &Run, dag: &Dag) -> Handles {
    let mut handles: Handles = Vec::with_capacity(dag.nodes.len());
    for (id, node) in (0..).zip(&dag.nodes) {
        let inputs: Result<Vec<_>, _> =
            node.inputs.iter().map(|place| handles[*place].as_ref()).collect();
        handles.push(match inputs.map_err(Clone::clone) {
            Ok(inputs) => {
                let call = node.call(id, inputs);
                run.submit_delayed(call).await
            }
            Err(error) => Err(error),
        });
    }
    let mut places = 0..;
    handles.retain(|_| places.next().is_some_and(|place| dag.outputs.contains(&place)));
    handles
}

/// Cancels the run when so many tasks have finished.
async fn cancel(run: &Run, finished: u64) -> anyhow::Result<()> {
    loop {
        let status = run.status().await?;
        if !status.state.is_running() {
            return Ok(());
        }
        if status.finished >= finished {
            return Ok(run.cancel("half is enough").await?);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads outputs as they come, then once more in order.
async fn as_completed(
    client: &Client,
    run: &Run,
    handles: Handles,
    history: &Path,
) -> anyhow::Result<()> {
    let handles: Vec<Handle<String>> = handles.into_iter().collect::<Result<_, _>>()?;
    let tasks: Vec<TaskId> = handles.iter().map(Handle::task).collect();
    // Equal calls of a pure task are one task, which comes as often as it was asked for.
    let mut places: BTreeMap<TaskId, Vec<usize>> = BTreeMap::new();
    for (place, task) in tasks.iter().enumerate() {
        places.entry(*task).or_default().push(place);
    }
    let mut results = client.as_completed(handles);
    let mut read_ones = BTreeMap::new();
    while let Some((handle, result)) = results.next().await {
        let place = places.get_mut(&handle.task()).and_then(Vec::pop);
        let place = place.with_context(|| format!("{} came too often", handle.task()))?;
        say(history, &format!("output {place} {}", told(&result)))?;
        read_ones.insert(place, Ok(handle));
    }
    let status = run.wait().await?;
    say(history, &format!("end {:?}", status.state))?;
    let handles: Handles = read_ones.into_values().collect();
    anyhow::ensure!(handles.len() == tasks.len(), "{} of {}", handles.len(), tasks.len());
    read(&handles, "again", history).await
}

async fn read(handles: &Handles, word: &str, history: &Path) -> anyhow::Result<()> {
    for (place, handle) in handles.iter().enumerate() {
        let result = match handle {
            Ok(handle) => handle.result().await,
            Err(error) => Err(error.clone()),
        };
        say(history, &format!("{word} {place} {}", told(&result)))?;
    }
    Ok(())
}

/// A result as it is written down.
fn told(result: &Result<String, Error>) -> String {
    match result {
        Ok(text) => format!("done {:016x}", dag::digest(text)),
        Err(error) => format!("error {:?}: {error}", error.kind()).replace('\n', " "),
    }
}

fn say(history: &Path, what: &str) -> anyhow::Result<()> {
    let line = format!("{} {} {what}\n", std::process::id(), clock::unix_ms());
    File::options().create(true).append(true).open(history)?.write_all(line.as_bytes())?;
    Ok(())
}
