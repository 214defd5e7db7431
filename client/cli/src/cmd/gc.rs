//! `bolthole gc`: deletes what nobody needs any more, at once instead of when a worker comes by.

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

impl Gc {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let redis = match self.servers.redis().await {
            Ok(redis) => redis,
            Err((found, todo)) => {
                writeln!(io::stderr(), "{found}\n  -> {todo}")?;
                return Ok(1);
            }
        };
        let deleted = match self.collect(&redis, out).await? {
            Ok(bytes) => bytes,
            Err(error) => {
                writeln!(io::stderr(), "{error}")?;
                return Ok(1);
            }
        };
        match (deleted, self.yes) {
            (0, _) => writeln!(out, "There is nothing to delete.")?,
            (bytes, true) => writeln!(out, "{} deleted.", size(bytes))?,
            (bytes, false) => writeln!(out, "{} in all; --yes deletes it.", size(bytes))?,
        }
        Ok(0)
    }

    async fn collect(&self, redis: &Redis, out: &mut impl Write) -> io::Result<Result<u64, Error>> {
        let wastes = match self.wastes(redis).await {
            Ok(wastes) => wastes,
            Err(error) => return Ok(Err(error)),
        };
        let mut bytes = 0;
        for (waste, size_bytes) in wastes {
            let what = match &waste {
                Waste::Run(run) => format!("run {run}"),
                Waste::Rest(run) => format!("the rest of run {run}"),
                Waste::Name(name, _) => format!("the name {name:?}"),
            };
            writeln!(out, "{:>9}  {what}", size(size_bytes))?;
            bytes += size_bytes;
            if self.yes
                && let Err(error) = delete(redis, &waste).await
            {
                return Ok(Err(error));
            }
        }
        Ok(Ok(bytes))
    }

    async fn wastes(&self, redis: &Redis) -> Result<Vec<(Waste, u64)>, Error> {
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

async fn delete(redis: &Redis, waste: &Waste) -> Result<(), Error> {
    match waste {
        Waste::Run(run) => Store::Redis(redis.clone()).purge(*run).await,
        Waste::Rest(run) => redis.sweep_run(*run).await,
        Waste::Name(name, run) => redis.unname(name, *run).await,
    }
}
