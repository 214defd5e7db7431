//! `bolthole du`: what is stored, by run.

use std::io::{self, Write};

use bolthole_broker::id::RunId;
use bolthole_broker::run::RunStatus;
use bolthole_broker::store::{Error, Keyspace, Redis, RunKeys, Store};
use clap::Args;

use crate::json;
use crate::servers::Servers;

/// Shows how much memory of the store each run takes, and what workers hold.
///
/// Bytes are those of Redis' memory; large results are with the workers and are not among them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bolthole du
  bolthole du --json | jq '.runs | sort_by(.bytes) | last'")]
pub(crate) struct Du {
    #[command(flatten)]
    servers: Servers,
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// A run and what it takes.
struct Line {
    run: RunId,
    name: Option<String>,
    status: Option<RunStatus>,
    keys: RunKeys,
}

impl Du {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let Some((lines, space, held)) = self.servers.ask(read).await? else { return Ok(1) };
        let write = if self.json { write_json } else { write_text };
        write(out, &lines, &space, held)?;
        Ok(0)
    }
}

/// The runs, largest first; everything else; bytes that workers hold.
async fn read(redis: &Redis) -> Result<(Vec<Line>, Keyspace, u64), Error> {
    let mut space = redis.keyspace().await?;
    let store = Store::Redis(redis.clone());
    let mut lines = Vec::with_capacity(space.runs.len());
    for (run, keys) in std::mem::take(&mut space.runs) {
        let name = space.names.iter().find(|(_, id)| **id == run).map(|(name, _)| name.clone());
        let status = store.status(run).await?;
        lines.push(Line { run, name, status, keys });
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.keys.bytes()));
    let held = store.workers().await?.iter().map(|(_, record)| record.held_bytes).sum();
    Ok((lines, space, held))
}

fn write_text(out: &mut impl Write, lines: &[Line], space: &Keyspace, held: u64) -> io::Result<()> {
    let columns = ["total", "columns", "tasks", "results", "blobs", "events", "rest"];
    for word in columns {
        write!(out, "{word:>9} ")?;
    }
    writeln!(out, " run")?;
    for line in lines {
        let keys = &line.keys;
        for bytes in [
            keys.bytes(),
            keys.columns_bytes,
            keys.descriptors_bytes,
            keys.results_bytes,
            keys.blobs_bytes,
            keys.events_bytes,
            keys.rest_bytes,
        ] {
            write!(out, "{:>9} ", size(bytes))?;
        }
        let name = line.name.as_deref().unwrap_or("(unnamed)");
        match &line.status {
            Some(status) => writeln!(
                out,
                " {name} {} {:?} {}/{}",
                line.run, status.state, status.finished, status.tasks
            )?,
            None => writeln!(out, " {name} {} (no header)", line.run)?,
        }
    }
    let runs: u64 = lines.iter().map(|line| line.keys.bytes()).sum();
    writeln!(out, "{:>9}  in {} runs", size(runs), lines.len())?;
    writeln!(out, "{:>9}  bookkeeping", size(space.bookkeeping_bytes))?;
    let strange: u64 = space.strange.iter().map(|(_, bytes)| bytes).sum();
    if strange > 0 {
        writeln!(out, "{:>9}  in {} strange keys", size(strange), space.strange.len())?;
    }
    writeln!(out, "{:>9}  of results held by workers", size(held))
}

fn write_json(out: &mut impl Write, lines: &[Line], space: &Keyspace, held: u64) -> io::Result<()> {
    let runs: Vec<String> = lines.iter().map(Line::json).collect();
    let strange: u64 = space.strange.iter().map(|(_, bytes)| bytes).sum();
    let all = [
        ("runs", json::list(&runs)),
        ("bookkeeping_bytes", space.bookkeeping_bytes.to_string()),
        ("strange_bytes", strange.to_string()),
        ("held_bytes", held.to_string()),
    ];
    writeln!(out, "{}", json::object(&all))
}

impl Line {
    fn json(&self) -> String {
        let null = || "null".to_owned();
        let keys = &self.keys;
        let state = self
            .status
            .as_ref()
            .map_or_else(null, |status| json::text(&format!("{:?}", status.state).to_lowercase()));
        json::object(&[
            ("run", json::text(&self.run.to_string())),
            ("name", self.name.as_ref().map_or_else(null, |name| json::text(name))),
            ("state", state),
            ("tasks", self.status.as_ref().map_or(0, |status| status.tasks).to_string()),
            ("keys", keys.keys.to_string()),
            ("bytes", keys.bytes().to_string()),
            ("columns_bytes", keys.columns_bytes.to_string()),
            ("descriptors_bytes", keys.descriptors_bytes.to_string()),
            ("results_bytes", keys.results_bytes.to_string()),
            ("blobs_bytes", keys.blobs_bytes.to_string()),
            ("events_bytes", keys.events_bytes.to_string()),
            ("rest_bytes", keys.rest_bytes.to_string()),
        ])
    }
}

/// Bytes for people: three digits or a little more.
pub(crate) fn size(bytes: u64) -> String {
    let mut whole = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if whole < 10_000 {
            return format!("{whole} {unit}");
        }
        whole = whole.div_ceil(1 << 10);
    }
    format!("{whole} TiB")
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        assert_eq!((size(0), size(9_999)), ("0 B".to_owned(), "9999 B".to_owned()));
        assert_eq!((size(10_000), size(64 << 20)), ("10 KiB".to_owned(), "64 MiB".to_owned()));
        assert_eq!(size(u64::MAX), "16777216 TiB");
    }
}
