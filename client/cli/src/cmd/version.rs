//! `bolthole version`: what must agree between the processes of a cluster.

use std::io::{self, Write};

use bolthole_broker::wire;
use clap::Args;

use crate::json;

/// Shows the version of this program and of every format that it reads and writes.
///
/// Processes of one cluster understand each other when their formats agree.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bolthole version\n  bolthole version --json")]
pub(crate) struct Version {
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Version {
    pub(crate) fn run(&self, out: &mut impl Write) -> io::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        let formats = wire::formats();
        if self.json {
            let formats = formats.map(|(name, version)| (name, json::text(&version)));
            let formats = json::object(&formats);
            let all = [("version", json::text(version)), ("formats", formats)];
            return writeln!(out, "{}", json::object(&all));
        }
        writeln!(out, "bolthole {version}")?;
        let widest = formats.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, version) in &formats {
            writeln!(out, "  {name:widest$}  {version}")?;
        }
        Ok(())
    }
}
