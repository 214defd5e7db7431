//! How long after a fault work goes on, and what runs twice: workers are killed and stopped, servers
//! restarted and taken away, all of them real processes. Prints a table; its last line is the
//! summary. Ends with 1 when a target is missed.
//!
//! `recovery [--repeats N] [--only kill|stop|outage]`; `recovery worker` is one of its workers.

mod faults;
mod outages;
mod table;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use table::Table;

/// Rounds of each kind of fault, unless told otherwise.
const REPEATS: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args == ["worker"] {
        let filter = tracing_subscriber::EnvFilter::new("info");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        let drain = Duration::from_secs(5);
        return Ok(bolthole::worker::from_env()?.drain(drain).run_async().await?);
    }
    let (mut repeats, mut only) = (REPEATS, None);
    for pair in args.chunks(2) {
        match pair {
            ["--repeats", count] => repeats = count.parse().context("--repeats N")?,
            ["--only", kind @ ("kill" | "stop" | "outage")] => only = Some((*kind).to_owned()),
            _ => bail!("recovery [--repeats N] [--only kill|stop|outage]"),
        }
    }
    let wanted = |kind: &str| only.as_deref().is_none_or(|only| only == kind);
    let mut table = Table::default();
    if wanted("kill") {
        faults::killed(repeats, &mut table).await?;
    }
    if wanted("stop") {
        faults::stopped(repeats, &mut table).await?;
    }
    if wanted("outage") {
        outages::all(&mut table).await?;
    }
    if table.print() { Ok(()) } else { std::process::exit(1) }
}
