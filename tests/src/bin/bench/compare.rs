//! Runs the workloads on this system and on others, one after the other, and makes a table of it.
//!
//! Every measurement is a process of its own that prints a line of JSON: this program for our own
//! ones, a driver of `tests/peers` for the others. Servers that a driver needs are started for it
//! alone, so that none finds anything of another, or is disturbed by an idle one.

mod peers;
mod plan;
mod python;
mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use bolthole_tests::bench::driver::{Driver, Outcome};
use bolthole_tests::servers::Pair;
use clap::Parser;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{line, setup};
use peers::Peer;
use plan::Column;
use table::{Cell, Row, Terms};

const DRIVERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// What a driver may take beyond its runs: to start the system, to warm up, to stop.
const START_S: u32 = 90;
/// Tasks of the worst case for ourselves.
const UNBATCHED: (&str, &str) = ("20000", "500");

#[derive(Debug, Parser)]
#[command(
    name = "bench compare",
    about = "Compares bolthole with other systems on this machine: JSON lines, then a table"
)]
pub(crate) struct Flags {
    /// What to compare: NAME, NAME=SIZE, trace=FILE,T,B, or all [default: all]
    workloads: Vec<String>,
    /// With which systems, separated by commas: dask, ray, parsl, hyperqueue, celery, dramatiq,
    /// taskiq, and on request dask-default, celery-prefork [default: the first seven]
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Tiny sizes and one run, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Python with the packages of tests/peers/requirements.txt
    #[arg(long, env = "BOLTHOLE_PEERS_PYTHON", default_value = "python3")]
    python: PathBuf,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Seconds that all runs of a workload on a system may take together
    #[arg(long, default_value_t = 180)]
    limit: u32,
}

/// What one measurement came to, as it is printed.
#[derive(Debug, Serialize)]
struct Raw<'a> {
    system: &'a str,
    workload: &'a str,
    size: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Map<String, Value>>,
}

/// What a row is about.
enum System {
    Ours { unbatched: bool },
    Peer { peer: &'static Peer, version: Option<String> },
}

/// How this comparison is made.
struct Sitting {
    python: OsString,
    program: OsString,
    quick: bool,
    terms: Terms,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the table goes to standard output")]
pub(crate) async fn run(flags: &Flags) -> Result<()> {
    ensure!(flags.runs > 0 && flags.limit > 0, "nothing would run");
    let columns = plan::columns(&flags.workloads, flags.quick)?;
    let peers = peers::peers(&flags.peers)?;
    let python = python::found_from_anywhere(&flags.python)?;
    let mut installed = python::installed(&python)?;
    let peers = peers.into_iter().map(|peer| {
        let version = installed.entry(peer.package.to_owned()).or_default().clone();
        System::Peer { peer, version }
    });
    let ours = [false, true].map(|unbatched| System::Ours { unbatched });
    let systems: Vec<System> = ours.into_iter().chain(peers).collect();
    let runs = if flags.quick { 1 } else { flags.runs };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let terms = Terms { runs, limit_s: flags.limit, cores };
    let program = std::env::current_exe()?.into_os_string();
    let sitting = Sitting { python, program, quick: flags.quick, terms };
    let mut rows: Vec<Row> = systems.iter().map(System::row).collect();
    // Side by side in time, system by system: machines have better and worse hours.
    for column in &columns {
        for (system, row) in systems.iter().zip(&mut rows) {
            row.cells.push(sitting.cell(system, &row.name, column).await?);
        }
    }
    println!("\n{}", table::markdown(&columns, &rows, terms));
    Ok(())
}

impl System {
    fn row(&self) -> Row {
        let (name, note) = match self {
            Self::Ours { unbatched: false } => ("bolthole".to_owned(), ""),
            Self::Ours { unbatched: true } => {
                let note = "a message and a commit for each task, its worst case";
                ("bolthole, unbatched".to_owned(), note)
            }
            Self::Peer { peer, version: Some(version) } => {
                (format!("{} {version}", peer.name), peer.note)
            }
            Self::Peer { peer, version: None } => (peer.name.to_owned(), ""),
        };
        Row { name, note, cells: Vec::new() }
    }
}

impl Sitting {
    /// Measures one workload on one system, and says what came of it.
    async fn cell(&self, system: &System, name: &str, column: &Column) -> Result<Cell> {
        let raw = |size, outcome| Raw {
            system: name,
            workload: column.workload,
            size,
            outcome,
            reason: None,
            result: None,
        };
        let (size, outcome) = match system {
            System::Ours { unbatched: true } if column.workload != "noop" => {
                return Ok(Cell::Lacks);
            }
            System::Ours { unbatched } => {
                let worst = if self.quick { UNBATCHED.1 } else { UNBATCHED.0 };
                let (workload, size) = if *unbatched {
                    ("unbatched", worst)
                } else {
                    (column.workload, &*column.ours)
                };
                say(name, column, size);
                (size, self.ours(workload, size).await)
            }
            System::Peer { version: None, .. } => {
                line::print(&raw(&column.peers, "not installed"))?;
                return Ok(Cell::NotInstalled);
            }
            System::Peer { peer, .. } if peer.lacks.contains(&column.workload) => {
                line::print(&raw(&column.peers, "no driver"))?;
                return Ok(Cell::Lacks);
            }
            System::Peer { peer, .. } => {
                let size = peer.size(column);
                say(name, column, size);
                (size, self.peer(peer, column.workload, size).await)
            }
        };
        // A server that did not start, say: the sitting goes on.
        let outcome = outcome.unwrap_or_else(|error| Outcome::failed(&format!("{error:#}")));
        line::print(&match &outcome {
            Outcome::Measured(line) => Raw { result: Some(line), ..raw(size, "measured") },
            Outcome::Failed(reason) => Raw { reason: Some(reason), ..raw(size, "fails") },
            Outcome::OverLimit => raw(size, "over the limit"),
        })?;
        Ok(Cell::Tried { size: size.to_owned(), outcome })
    }

    /// This program once more, for servers and workers of its own.
    async fn ours(&self, workload: &str, size: &str) -> Result<Outcome> {
        let arguments = self.arguments(workload, size);
        self.drive(&self.program, arguments, Vec::new()).await
    }

    async fn peer(&self, peer: &Peer, workload: &str, size: &str) -> Result<Outcome> {
        let mut arguments = vec![Path::new(DRIVERS).join(peer.driver).into_os_string()];
        arguments.extend(self.arguments(workload, size));
        arguments.extend(["--config".into(), peer.config.into()]);
        // No files of ours beside the drivers.
        let mut environment = vec![("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
        let mut servers: Option<Pair> = None;
        if peer.servers {
            let pair = tokio::task::spawn_blocking(setup::servers).await??;
            environment.push(("PEERS_AMQP_URL", pair.rabbit.url()));
            environment.push(("PEERS_REDIS_URL", pair.redis.url()));
            let processes = [pair.rabbit.pid(), pair.redis.pid()].into_iter().flatten();
            let processes: Vec<_> = processes.map(|process| process.to_string()).collect();
            environment.push(("PEERS_SERVER_PIDS", processes.join(",")));
            servers = Some(pair);
        }
        let outcome = self.drive(&self.python, arguments, environment).await;
        drop(servers);
        outcome
    }

    fn arguments(&self, workload: &str, size: &str) -> Vec<OsString> {
        let Terms { runs, limit_s, .. } = self.terms;
        let (runs, limit) = (format!("--runs={runs}"), format!("--limit={limit_s}"));
        [workload, size, &runs, &limit].map(OsString::from).into()
    }

    async fn drive(
        &self,
        program: &OsString,
        arguments: Vec<OsString>,
        environment: Vec<(&str, String)>,
    ) -> Result<Outcome> {
        let limit = Duration::from_secs((self.terms.limit_s + START_S).into());
        Driver { program, arguments, environment, limit }.run().await
    }
}

#[expect(clippy::print_stderr, reason = "how far it has got, for whoever waits")]
fn say(name: &str, column: &Column, size: &str) {
    eprintln!("compare: {name}, {} {size}", column.workload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_by_what_was_measured() {
        let peer = &peers::PEERS[0];
        let row = |version: Option<&str>| {
            System::Peer { peer, version: version.map(ToOwned::to_owned) }.row().name
        };
        assert_eq!([row(None), row(Some("1.2"))], ["Dask", "Dask 1.2"]);
    }
}
