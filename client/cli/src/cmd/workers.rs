//! `bolthole workers`: who is there.

use std::io::{self, Write};

use bolthole_broker::id::WorkerIndex;
use bolthole_broker::store::{Redis, Store, WorkerRecord};
use clap::Args;

use super::du::size;
use crate::servers::Servers;
use crate::{json, words};

/// Lists workers: their slots and queues, how many tasks each has, and what results it holds.
#[derive(Debug, Args)]
#[command(after_help = "\
A worker is listed until a lease after its last sign of life. Tasks are those that it runs, and those
that it has taken to run next.

Examples:
  bolthole workers
  bolthole workers --json | jq '[.workers[].slots] | add'")]
pub(crate) struct Workers {
    #[command(flatten)]
    servers: Servers,
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

type Line = (WorkerIndex, WorkerRecord);

impl Workers {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let read = async |redis: &Redis| Store::Redis(redis.clone()).workers().await;
        let Some(workers) = self.servers.ask(read).await? else { return Ok(1) };
        if self.json { write_json(out, &workers) } else { write_text(out, &workers) }?;
        Ok(0)
    }
}

/// Tasks that it has.
fn load(record: &WorkerRecord) -> usize {
    record.in_flight.iter().map(|(_, tasks)| tasks.len()).sum()
}

fn write_text(out: &mut impl Write, workers: &[Line]) -> io::Result<()> {
    if workers.is_empty() {
        return writeln!(out, "There is no worker: runs wait for one.");
    }
    let (worker, address) = ("worker", "data port");
    writeln!(
        out,
        "{worker:<8} {address:<22} {:>5} {:>6} {:>9}  queues",
        "slots", "tasks", "holds"
    )?;
    for (index, record) in workers {
        let address = words::harmless(&record.address);
        let queues: Vec<String> =
            record.queues.iter().map(|queue| words::harmless(queue)).collect();
        let (slots, load) = (record.slots, load(record));
        let (holds, queues) = (size(record.held_bytes), queues.join(", "));
        let index = index.to_string();
        writeln!(out, "{index:<8} {address:<22} {slots:>5} {load:>6} {holds:>9}  {queues}")?;
    }
    let slots: u64 = workers.iter().map(|(_, record)| u64::from(record.slots)).sum();
    writeln!(out, "{} with {slots} slots", workers.len())
}

fn write_json(out: &mut impl Write, workers: &[Line]) -> io::Result<()> {
    let one = |(index, record): &Line| {
        let queues: Vec<String> = record.queues.iter().map(|queue| json::text(queue)).collect();
        json::object(&[
            ("worker", json::text(&index.to_string())),
            ("incarnation", json::text(&record.incarnation.to_string())),
            ("address", json::text(&record.address)),
            ("slots", record.slots.to_string()),
            ("queues", json::list(&queues)),
            ("tasks", load(record).to_string()),
            ("held_bytes", record.held_bytes.to_string()),
        ])
    };
    let workers: Vec<String> = workers.iter().map(one).collect();
    writeln!(out, "{}", json::object(&[("workers", json::list(&workers))]))
}
