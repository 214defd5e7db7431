//! What the command line says.

use std::path::PathBuf;

use clap::Parser;

/// Which two three-day windows of New York's flights had the most alike delays?
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
}

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/etl/data");
