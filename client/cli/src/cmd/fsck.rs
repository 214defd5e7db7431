//! `bolthole fsck`: does the store hold what it should hold, and if not, can it be put right?
//!
//! - `look`: what is wrong with one run
//! - `repair`: putting that right

mod look;
mod repair;

use std::collections::BTreeMap;
use std::io::{self, Write};

use bolthole_broker::id::RunId;
use bolthole_broker::store::{Error, Keyspace, Redis, RunKeys, Store};
use clap::Args;

use crate::cmd::report::Report;
use crate::servers::Servers;

/// Checks what the store holds of every run against what it should hold.
///
/// Adds up each run: what every task waits for, who still needs its result, the totals, whether all
/// descriptors and stored results are there; then names without runs and runs that nobody looks
/// after. Runs may go on meanwhile: what is found is looked at again before it is said. Reads all
/// keys of the namespace; takes about a second for a million tasks.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 nothing is wrong (any more), 1 something is, 2 the arguments are not understood.

Examples:
  bolthole fsck
  bolthole fsck nightly-etl --repair
  bolthole fsck --json | jq '.checks[] | select(.outcome == \"bad\")'")]
pub(crate) struct Fsck {
    /// Runs to check, by name or id; all by default.
    runs: Vec<String>,
    /// Put right what can be: counts, totals, lost results, names, the list of runs. A run whose
    /// graph is damaged is cancelled, so that nobody waits for it for ever.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    servers: Servers,
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let mut report = Report::default();
        match self.servers.redis().await {
            Ok(redis) => {
                if let Err(error) = self.check(&redis, &mut report).await {
                    report.bad("store", &error.to_string(), "run it again when Redis answers");
                }
            }
            Err((found, todo)) => report.bad("redis", &found, todo),
        }
        report.write(out, self.json)?;
        Ok(u8::from(report.is_bad()))
    }

    async fn check(&self, redis: &Redis, report: &mut Report) -> Result<(), Error> {
        let space = redis.keyspace().await?;
        let store = Store::Redis(redis.clone());
        let Some(wanted) = self.wanted(&space, report) else { return Ok(()) };
        for (run, keys) in wanted {
            let name = space.names.iter().find(|(_, id)| **id == run).map(|(name, _)| name);
            let title = name.map_or_else(|| run.to_string(), ToOwned::to_owned);
            if keys.made {
                if !keys.listed {
                    self.unlisted(redis, run, &title, report).await?;
                }
                self.examine(&store, run, &title, report).await?;
            } else {
                self.unmade(redis, &store, run, keys, report).await?;
            }
        }
        if self.runs.is_empty() {
            self.names(redis, &space, report).await?;
            strangers(&space, report);
        }
        Ok(())
    }

    /// The runs to check; `None` when one that was named is not there.
    fn wanted<'a>(
        &self,
        space: &'a Keyspace,
        report: &mut Report,
    ) -> Option<BTreeMap<RunId, &'a RunKeys>> {
        if self.runs.is_empty() {
            return Some(space.runs.iter().map(|(run, keys)| (*run, keys)).collect());
        }
        let mut wanted = BTreeMap::new();
        for text in &self.runs {
            let run = space.names.get(text).copied().or_else(|| text.parse().ok());
            let found = run.and_then(|run| Some((run, space.runs.get(&run)?)));
            let Some((run, keys)) = found else {
                report.bad(text, "there is no run of this name or id", "bolthole du lists them");
                return None;
            };
            wanted.insert(run, keys);
        }
        Some(wanted)
    }

    async fn examine(
        &self,
        store: &Store,
        run: RunId,
        title: &str,
        report: &mut Report,
    ) -> Result<(), Error> {
        let Some(looked) = look::at(store, run).await? else {
            report.skipped(title, "it was deleted meanwhile");
            return Ok(());
        };
        if looked.findings.is_empty() && looked.damage.is_none() {
            report.good(title, &looked.summary);
            return Ok(());
        }
        let todo = "bolthole fsck --repair puts it right";
        for words in looked.words() {
            if self.repair {
                report.doubtful(title, &words, "is being put right");
            } else {
                report.bad(title, &words, todo);
            }
        }
        if self.repair {
            repair::run(store, run, &looked).await?;
            match look::at(store, run).await? {
                Some(again) if again.is_well() => report.good(title, "was put right"),
                Some(_) => {
                    let todo = "cancel the run and submit its graph again";
                    report.bad(title, "could not be put right", todo);
                }
                None => report.skipped(title, "it was deleted meanwhile"),
            }
        }
        Ok(())
    }

    async fn unlisted(
        &self,
        redis: &Redis,
        run: RunId,
        title: &str,
        report: &mut Report,
    ) -> Result<(), Error> {
        let found = "it is not on the list of runs: nobody looks after it";
        if self.repair {
            redis.relist(run).await?;
            report.doubtful(title, found, "was put on the list");
        } else {
            report.bad(title, found, "bolthole fsck --repair puts it there");
        }
        Ok(())
    }

    /// A run without a header: just being made, or the rest of one.
    async fn unmade(
        &self,
        redis: &Redis,
        store: &Store,
        run: RunId,
        keys: &RunKeys,
        report: &mut Report,
    ) -> Result<(), Error> {
        let title = run.to_string();
        if keys.listed && !store.overdue().await?.contains(&run) {
            report.good(&title, "is just being opened");
            return Ok(());
        }
        let found = format!("the rest of a run: {} keys without a header", keys.keys);
        if self.repair {
            redis.sweep_run(run).await?;
            report.doubtful(&title, &found, "was deleted");
        } else {
            report.bad(&title, &found, "bolthole fsck --repair deletes it");
        }
        Ok(())
    }

    async fn names(
        &self,
        redis: &Redis,
        space: &Keyspace,
        report: &mut Report,
    ) -> Result<(), Error> {
        for (name, run) in &space.names {
            if space.runs.contains_key(run) {
                continue;
            }
            let found = format!("names the run {run}, which is gone");
            if self.repair {
                redis.unname(name, *run).await?;
                report.doubtful(name, &found, "the name was deleted");
            } else {
                report.bad(name, &found, "bolthole fsck --repair deletes the name");
            }
        }
        Ok(())
    }
}

fn strangers(space: &Keyspace, report: &mut Report) {
    if let Some((key, _)) = space.strange.first() {
        let found =
            format!("{} that no version of this program writes: {key}", space.strange.len());
        report.doubtful("strange keys", &found, "look who writes them");
    }
}
