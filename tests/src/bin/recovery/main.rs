//! How long after a fault work goes on, and what runs twice: workers are killed and stopped, servers
//! restarted and taken away, all of them real processes. Prints a table; its last line is the
//! summary. Ends with 1 when a target is missed.

mod faults;
mod outages;
mod table;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use table::Table;

/// Harms workers and servers, and measures how long after that work goes on.
#[derive(Debug, Parser)]
struct Flags {
    /// Rounds of each kind of fault
    #[arg(long, value_name = "N", default_value_t = 10)]
    repeats: usize,
    /// Only faults of this kind
    #[arg(long, value_name = "KIND")]
    only: Option<Kind>,
    /// Be one of the workers instead
    #[arg(hide = true, value_parser = ["worker"])]
    role: Option<String>,
}

/// What is done to workers, or to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Kill,
    Stop,
    Outage,
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    if flags.role.is_some() {
        let filter = tracing_subscriber::EnvFilter::new("info");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        let drain = Duration::from_secs(5);
        return Ok(bolthole::worker::from_env()?.drain(drain).run_async().await?);
    }
    let (repeats, only) = (flags.repeats, flags.only);
    let wanted = |kind| only.is_none_or(|only| only == kind);
    let mut table = Table::default();
    if wanted(Kind::Kill) {
        faults::killed(repeats, &mut table).await?;
    }
    if wanted(Kind::Stop) {
        faults::stopped(repeats, &mut table).await?;
    }
    if wanted(Kind::Outage) {
        outages::all(&mut table).await?;
    }
    if table.print() { Ok(()) } else { std::process::exit(1) }
}
