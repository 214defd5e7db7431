//! `bolthole ps`: runs, and how far each is.

use std::io::{self, Write};

use bolthole_broker::id::RunId;
use bolthole_broker::run::RunStatus;
use bolthole_broker::store::{Error, Redis, Store};
use clap::Args;

use crate::servers::Servers;
use crate::{json, words};

/// Lists runs, the newest first: where each stands, and how many of its tasks have finished.
#[derive(Debug, Args)]
#[command(after_help = "\
A run is `open` while more calls may come, then `running`, and in the end `done`, `failed` or
`cancelled`. Exit codes: 0 done, 1 the store does not answer, 2 the arguments are not understood.

Examples:
  bolthole ps
  bolthole ps --all
  bolthole ps --all --json | jq '.runs[] | select(.state == \"failed\") | .name'")]
pub(crate) struct Ps {
    #[command(flatten)]
    servers: Servers,
    /// Runs that have ended, too.
    #[arg(long, short)]
    all: bool,
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let Some(mut runs) = self.servers.ask(read).await? else { return Ok(1) };
        let all = runs.len();
        runs.retain(|(_, status)| self.all || status.state.is_running());
        if self.json { write_json(out, &runs) } else { write_text(out, &runs, all) }?;
        Ok(0)
    }
}

async fn read(redis: &Redis) -> Result<Vec<(RunId, RunStatus)>, Error> {
    let store = Store::Redis(redis.clone());
    let mut runs = Vec::new();
    for run in store.runs().await?.into_iter().rev() {
        // One that is deleted meanwhile is none.
        runs.extend(store.status(run).await?.map(|status| (run, status)));
    }
    Ok(runs)
}

fn write_text(out: &mut impl Write, runs: &[(RunId, RunStatus)], all: usize) -> io::Result<()> {
    if !runs.is_empty() {
        let (run, state) = ("run", "state");
        writeln!(out, "{run:<32}  {state:<9}  {:>9}  finished of tasks  name", "begun")?;
    }
    for (run, status) in runs {
        let name = status.name.as_deref().map_or("–".to_owned(), words::harmless);
        let state = words::state(status.state);
        let begun = words::short(words::age(*run));
        let finished = format!("{} of {}", status.finished, status.tasks);
        write!(out, "{run}  {state:<9}  {begun:>9}  {finished:>17}  {name}")?;
        if status.failed > 0 {
            write!(out, ", {} failed", status.failed)?;
        }
        match words::reason(status) {
            Some(reason) => writeln!(out, " ({})", words::harmless(&reason))?,
            None => writeln!(out)?,
        }
    }
    match (all - runs.len(), runs.is_empty()) {
        (0, true) => writeln!(out, "There is no run."),
        (0, false) => Ok(()),
        (ended, true) => writeln!(out, "No run is running; {ended} have ended: --all shows them."),
        (ended, false) => writeln!(out, "{ended} more have ended: --all shows them."),
    }
}

fn write_json(out: &mut impl Write, runs: &[(RunId, RunStatus)]) -> io::Result<()> {
    let runs: Vec<String> =
        runs.iter().map(|(run, status)| json::object(&fields(*run, status))).collect();
    writeln!(out, "{}", json::object(&[("runs", json::list(&runs))]))
}

/// What scripts are told of a run.
pub(super) fn fields(run: RunId, status: &RunStatus) -> Vec<(&'static str, String)> {
    let text = |text: Option<String>| text.map_or("null".to_owned(), |text| json::text(&text));
    vec![
        ("run", json::text(&run.to_string())),
        ("name", text(status.name.clone())),
        ("state", json::text(words::state(status.state))),
        ("begun_unix_ms", run.unix_ms().to_string()),
        ("tasks", status.tasks.to_string()),
        ("finished", status.finished.to_string()),
        ("failed", status.failed.to_string()),
        ("reason", text(words::reason(status))),
    ]
}
