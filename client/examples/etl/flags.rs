//! What the command line says.

use std::path::PathBuf;
use std::time::Duration;

use bolthole::Ctx;
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Which two three-day windows of New York's flights had the most alike delays?
///
/// Without --cluster or --worker everything runs in this process, and no server is needed. The
/// other two find RabbitMQ and Redis by `BOLTHOLE_AMQP_URL` and `BOLTHOLE_REDIS_URL`.
#[derive(Debug, Parser)]
pub(crate) struct Flags {
    /// Folder that holds flights/*.csv.gz, airports.csv.gz and planes.csv.gz
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// How many days, from the first; at least 6
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) days: usize,
    /// How many pairs of windows to compare
    #[arg(long, value_name = "M", default_value_t = 200)]
    pub(crate) pairs: usize,
    /// Seed of the random pairs
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Let the workers of a cluster do the work
    #[arg(long, conflicts_with = "worker")]
    pub(crate) cluster: bool,
    /// Be a worker of the cluster
    #[arg(long)]
    pub(crate) worker: bool,
    /// How many tasks the worker runs at a time [default: one per processor]
    #[arg(long, value_name = "N", requires = "worker")]
    pub(crate) slots: Option<usize>,
    /// Let every task sleep this many milliseconds as well: time to watch, or to kill something
    #[arg(long, value_name = "MS", conflicts_with = "worker", default_value_t = 0)]
    pub(crate) hold: u64,
    /// Where to draw the graph: a file that ends with .svg or .dot
    #[arg(long, value_name = "FILE", conflicts_with = "worker", default_value = "etl.svg")]
    pub(crate) picture: PathBuf,
    /// Name the run: the same command again attaches to it
    #[arg(long, value_name = "NAME", conflicts_with = "worker")]
    pub(crate) run: Option<String>,
}

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/etl/data");

/// The name, in the run's header, of what `--hold` said.
pub(crate) const HOLD: &str = "hold_ms";

/// Sleeps as long as the client's `--hold` said.
pub(crate) fn hold(ctx: &Ctx) {
    let ms = ctx.header(HOLD).and_then(|ms| ms.parse().ok()).unwrap_or_default();
    ctx.pause(Duration::from_millis(ms));
}

/// Shows on standard error what the worker says of itself; `RUST_LOG` chooses.
pub(crate) fn log() {
    let default = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let filter = default.from_env_lossy();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
}
