//! `bolthole gc`: deletes what nobody needs any more, at once instead of when a worker comes by.

use std::fmt;
use std::io::{self, Write};

use bolthole_broker::id::RunId;
use bolthole_broker::store::{Error, Redis, Store};
use clap::Args;

use super::du::size;
use crate::servers::Servers;

/// Deletes ended runs that have outlived their retention, rests of runs, and names without runs.
///
/// Workers do the same by themselves every few seconds; this is for clusters without workers, and
/// for making room. Says what it would delete; deletes with --yes alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 done, 1 the store does not answer, 2 the arguments are not understood.

Examples:
  bolthole gc
  bolthole gc --yes
  bolthole gc --ended --yes    # results of ended runs that nobody has read yet, too")]
pub(crate) struct Gc {
    /// Delete ended runs whose retention is not over, too.
    #[arg(long)]
    ended: bool,
    /// Do it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    servers: Servers,
}

/// Something to delete.
enum Waste {
    /// A run that was made.
    Run(RunId),
    /// Keys of one that has no header.
    Rest(RunId),
    /// A name of one that is gone.
    Name(String, RunId),
}

impl fmt::Display for Waste {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run) => write!(f, "run {run}"),
            Self::Rest(run) => write!(f, "the rest of run {run}"),
            Self::Name(name, _) => write!(f, "the name {name:?}"),
        }
    }
}

impl Gc {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let collect = async |redis: &Redis| {
            let wastes = self.collect(redis).await?;
            if self.yes { delete(redis, wastes).await } else { Ok(wastes) }
        };
        let Some(wastes) = self.servers.ask(collect).await? else { return Ok(1) };
        for (waste, bytes) in &wastes {
            writeln!(out, "{:>9}  {waste}", size(*bytes))?;
        }
        let bytes = wastes.iter().map(|(_, bytes)| bytes).sum();
        match (wastes.is_empty(), self.yes) {
            (true, _) => writeln!(out, "There is nothing to delete.")?,
            (false, true) => writeln!(out, "{} deleted.", size(bytes))?,
            (false, false) => writeln!(out, "{} in all; --yes deletes it.", size(bytes))?,
        }
        Ok(0)
    }

    /// What there is to delete, with its bytes.
    async fn collect(&self, redis: &Redis) -> Result<Vec<(Waste, u64)>, Error> {
        let space = redis.keyspace().await?;
        let store = Store::Redis(redis.clone());
        let overdue = store.overdue().await?;
        let mut wastes = Vec::new();
        for (run, keys) in &space.runs {
            let status = if keys.made { store.status(*run).await? } else { None };
            // One that is open still is closed by its policy, not deleted.
            let ended = status.is_some_and(|status| !status.state.is_running());
            let due = overdue.contains(run);
            if ended && (due || self.ended) {
                wastes.push((Waste::Run(*run), keys.bytes()));
            } else if !keys.made && (due || !keys.listed) {
                wastes.push((Waste::Rest(*run), keys.bytes()));
            }
        }
        let lost = space.names.into_iter().filter(|(_, run)| !space.runs.contains_key(run));
        wastes.extend(lost.map(|(name, run)| (Waste::Name(name, run), 1)));
        Ok(wastes)
    }
}

/// Deletes it all, and answers with it.
async fn delete(redis: &Redis, wastes: Vec<(Waste, u64)>) -> Result<Vec<(Waste, u64)>, Error> {
    for (waste, _) in &wastes {
        match waste {
            Waste::Run(run) => Store::Redis(redis.clone()).purge(*run).await?,
            Waste::Rest(run) => redis.sweep_run(*run).await?,
            Waste::Name(name, run) => redis.unname(name, *run).await?,
        }
    }
    Ok(wastes)
}
