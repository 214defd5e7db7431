//! What the processes of a play do: a worker, or a client that asks for the schedule's graph by a
//! name and writes down what it is told.
//!
//! ```text
//! PROCESS MILLISECONDS connected | submitted RUN | output PLACE done DIGEST | output PLACE error WHY
//! PROCESS MILLISECONDS again PLACE … | end STATE
//! ```

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bolthole::{Client, Handle};
use bolthole_broker::clock;

use super::schedule::Schedule;
use crate::dag;
use crate::ledger::LEDGER;
use crate::workload::HOLD;

/// The name of a play's run.
pub(super) const RUN: &str = "play";
/// How long a worker that is told to go finishes what it has begun.
const DRAIN: Duration = Duration::from_secs(5);

/// A worker, as the environment says, until it is told to go.
///
/// # Errors
/// When it cannot be started.
pub async fn worker() -> anyhow::Result<()> {
    Ok(bolthole::worker::from_env()?.drain(DRAIN).run_async().await?)
}

/// A client: submits the schedule's graph, unless it is there, and reads every output twice.
///
/// # Errors
/// When something else than a task fails.
pub async fn client(schedule: &Path, history: &Path, ledger: &str) -> anyhow::Result<()> {
    let schedule = Schedule::load(schedule)?;
    let client = Client::from_env().await?;
    say(history, "connected")?;
    let run = client.run(RUN).policy(schedule.policy).header(LEDGER, ledger);
    let run = run.header(HOLD, schedule.hold_ms.to_string());
    let handles = run.submit(schedule.dag.calls()).await?;
    let run = handles.first().context("a graph has outputs")?.in_run();
    say(history, &format!("submitted {}", run.id()))?;
    read(&handles, "output", history).await?;
    let status = run.wait().await?;
    say(history, &format!("end {:?}", status.state))?;
    read(&handles, "again", history).await
}

async fn read(handles: &[Handle<String>], word: &str, history: &Path) -> anyhow::Result<()> {
    for (place, handle) in handles.iter().enumerate() {
        let said = match handle.result().await {
            Ok(text) => format!("done {:016x}", dag::digest(&text)),
            Err(error) => format!("error {:?}: {error}", error.kind()).replace('\n', " "),
        };
        say(history, &format!("{word} {place} {said}"))?;
    }
    Ok(())
}

fn say(history: &Path, what: &str) -> anyhow::Result<()> {
    let line = format!("{} {} {what}\n", std::process::id(), clock::unix_ms());
    File::options().create(true).append(true).open(history)?.write_all(line.as_bytes())?;
    Ok(())
}
