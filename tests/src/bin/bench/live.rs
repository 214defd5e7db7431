//! What results took on each worker, as its own metrics say.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one worker says of its results since it started.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Live {
    /// The most that they took, in memory and on disk.
    peak_mib: u64,
    /// How many were written to disk.
    spills: u64,
    /// What came from other workers.
    fetched_mib: u64,
}

impl Live {
    /// Asks the worker whose health endpoint this is.
    pub(crate) fn of(address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let number = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.with_context(|| format!("a worker says nothing of {name}"))?.parse()?)
        };
        Ok(Self {
            peak_mib: number("bolthole_held_peak_bytes")? >> 20,
            spills: number("bolthole_spills")?,
            fetched_mib: number("bolthole_fetched_bytes_total")? >> 20,
        })
    }
}
