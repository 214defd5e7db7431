//! `bolthole show`: one run, by the names of its tasks.

mod tally;

use std::io::{self, Write};

use bolthole_broker::error::TaskError;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::run::{RunStatus, TaskStatus};
use bolthole_broker::store::{Error, Redis, Store};
use clap::Args;

use self::tally::{Count, Tally};
use super::ps;
use crate::servers::Servers;
use crate::{json, words};

/// Failed tasks whose errors are shown; the others are counted.
const ERRORS_MAX: usize = 10;

/// Shows one run: its tasks by name, how many of them have finished, are with workers, are ready
/// without a worker that has them, or wait for inputs; and what failed.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 done, 1 there is no such run or the store does not answer, 2 the arguments are not
understood.

Examples:
  bolthole show nightly
  bolthole show 01a20aaf0bdb8c5f30a8b6f26fe96f83 --json | jq .names")]
pub(crate) struct Show {
    /// The run's name, or its id.
    run: String,
    #[command(flatten)]
    servers: Servers,
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What is shown.
struct Shown {
    run: RunId,
    status: RunStatus,
    tally: Tally,
    errors: Vec<(TaskId, Option<TaskError>)>,
}

impl Show {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let read = async |redis: &Redis| read(&Store::Redis(redis.clone()), &self.run).await;
        let Some(shown) = self.servers.ask(read).await? else { return Ok(1) };
        let Some(shown) = shown else {
            let name = words::harmless(&self.run);
            writeln!(io::stderr(), "There is no run {name}: `bolthole ps --all` lists them.")?;
            return Ok(1);
        };
        if self.json { write_json(out, &shown) } else { write_text(out, &shown) }?;
        Ok(0)
    }
}

/// The run of a name, or of an id.
pub(super) async fn find(store: &Store, name: &str) -> Result<Option<RunId>, Error> {
    match store.find(name).await? {
        Some(run) => Ok(Some(run)),
        None => Ok(name.parse().ok()),
    }
}

async fn read(store: &Store, name: &str) -> Result<Option<Shown>, Error> {
    let Some(run) = find(store, name).await? else { return Ok(None) };
    let Some(status) = store.status(run).await? else { return Ok(None) };
    let tally = Tally::read(store, run).await?;
    let some = &tally.failed[..tally.failed.len().min(ERRORS_MAX)];
    let found = if some.is_empty() { Vec::new() } else { store.inspect(run, some).await? };
    let error = |status: Option<TaskStatus>| TaskError::decode(&status?.record?);
    let errors = some.iter().copied().zip(found.into_iter().map(error)).collect();
    Ok(Some(Shown { run, status, tally, errors }))
}

fn write_text(out: &mut impl Write, shown: &Shown) -> io::Result<()> {
    let Shown { run, status, tally, errors } = shown;
    let name =
        status.name.as_deref().map_or(String::new(), |name| format!(" {}", words::harmless(name)));
    writeln!(out, "run {run}{name}")?;
    write!(out, "{}, begun {} ago", words::state(status.state), words::short(words::age(*run)))?;
    match words::reason(status) {
        Some(reason) => writeln!(out, ": {}", words::harmless(&reason))?,
        None => writeln!(out)?,
    }
    let all = Count::sum(tally.names.iter().map(|(_, count)| count));
    writeln!(out)?;
    for (column, _) in all.columns() {
        write!(out, "{:>9}", column.replace('_', " "))?;
    }
    writeln!(out, "  name")?;
    for (name, count) in &tally.names {
        line(out, count, &words::harmless(name))?;
    }
    if tally.names.len() > 1 {
        line(out, &all, "in all")?;
    }
    for (task, error) in errors {
        let words = match error {
            Some(error) => format!("{}: {}", error.name, error.chain.join(": ")),
            None => "its error cannot be read".to_owned(),
        };
        writeln!(out, "failed {task} {}", words::harmless(&words))?;
    }
    if let Some(more) = tally.failed.len().checked_sub(errors.len()).filter(|more| *more > 0) {
        writeln!(out, "and {more} more have failed")?;
    }
    Ok(())
}

fn line(out: &mut impl Write, count: &Count, name: &str) -> io::Result<()> {
    for (_, number) in count.columns() {
        write!(out, "{number:>9}")?;
    }
    writeln!(out, "  {name}")
}

fn write_json(out: &mut impl Write, shown: &Shown) -> io::Result<()> {
    let name = |(name, count): &(String, Count)| {
        let mut fields = vec![("name", json::text(name))];
        fields.extend(count.columns().map(|(column, number)| (column, number.to_string())));
        json::object(&fields)
    };
    let error = |(task, error): &(TaskId, Option<TaskError>)| {
        let chain = error.iter().flat_map(|error| &error.chain).map(|text| json::text(text));
        let name = error.as_ref().map_or("null".to_owned(), |error| json::text(&error.name));
        let chain: Vec<String> = chain.collect();
        json::object(&[
            ("task", json::text(&task.to_string())),
            ("name", name),
            ("error", json::list(&chain)),
        ])
    };
    let mut fields = ps::fields(shown.run, &shown.status);
    let names: Vec<String> = shown.tally.names.iter().map(name).collect();
    let errors: Vec<String> = shown.errors.iter().map(error).collect();
    fields.push(("names", json::list(&names)));
    fields.push(("errors", json::list(&errors)));
    writeln!(out, "{}", json::object(&fields))
}
