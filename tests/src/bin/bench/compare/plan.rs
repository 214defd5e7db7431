//! Which workloads are compared, and in which sizes.

use std::path::{Path, absolute};

use anyhow::{Result, bail, ensure};

/// How a workload's figure is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    TasksPerSecond,
    MibPerSecond,
    Seconds,
    Milliseconds,
}

/// A workload in its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) workload: &'static str,
    pub(crate) ours: String,
    /// Smaller where the figure is a rate: these systems take a thousandfold time for ours.
    pub(crate) peers: String,
    pub(crate) unit: Unit,
}

/// A workload and its sizes: ours, those of the others, and those of a quick look.
type Sizes = (&'static str, Unit, &'static str, &'static str, &'static str);

const WORKLOADS: [Sizes; 8] = [
    ("noop", Unit::TasksPerSecond, "100000", "10000", "500"),
    ("chain", Unit::TasksPerSecond, "5000", "1000", "50"),
    ("tree", Unit::TasksPerSecond, "8192", "8192", "64"),
    ("etl", Unit::TasksPerSecond, "2000,4000", "2000,4000", "20,40"),
    ("etlsleep", Unit::Seconds, "100,200", "100,200", "10,20"),
    ("shuffle", Unit::MibPerSecond, "16", "16", "2"),
    ("bigfan", Unit::Seconds, "64,64", "64,64", "2,4"),
    ("latency", Unit::Milliseconds, "1000", "200", "3"),
];

impl Column {
    /// Whether the others have their usual size.
    pub(crate) fn is_usual(&self) -> bool {
        let same =
            |(name, _, _, peers, _): &Sizes| (*name, *peers) == (self.workload, &*self.peers);
        WORKLOADS.iter().any(same)
    }
}

/// The workloads as they were asked for: `NAME`, `NAME=SIZE`, `all`; none stand for all.
pub(crate) fn columns(asked: &[String], quick: bool) -> Result<Vec<Column>> {
    let all = || WORKLOADS.iter().map(|sizes| column(sizes, quick));
    if asked.is_empty() {
        return Ok(all().collect());
    }
    let mut columns = Vec::new();
    for text in asked {
        match text.split_once('=') {
            None if text == "all" => columns.extend(all()),
            Some(("trace", size)) => columns.push(trace(size)?),
            _ => columns.push(plain(text, quick)?),
        }
    }
    Ok(columns)
}

fn column((workload, unit, ours, peers, quick): &Sizes, is_quick: bool) -> Column {
    let (ours, peers) = if is_quick { (quick, quick) } else { (ours, peers) };
    Column { workload, ours: (*ours).to_owned(), peers: (*peers).to_owned(), unit: *unit }
}

fn plain(text: &str, quick: bool) -> Result<Column> {
    let (name, size) = text.split_once('=').map_or((text, None), |(name, size)| (name, Some(size)));
    let Some(sizes) = WORKLOADS.iter().find(|(known, ..)| *known == name) else {
        let known = WORKLOADS.map(|(known, ..)| known).join(", ");
        bail!("`{name}` is not compared; {known}, all and trace=FILE,T,B are");
    };
    let usual = column(sizes, quick);
    Ok(size.map_or(usual.clone(), |size| {
        let size = size.to_owned();
        Column { ours: size.clone(), peers: size, ..usual }
    }))
}

/// Drivers run in folders of their own: the path must be found from there.
fn trace(size: &str) -> Result<Column> {
    let mut parts = size.rsplitn(3, ',');
    let (Some(bytes), Some(time), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("`trace={size}` should be trace=FILE,T,B, times scaled by T and sizes by B");
    };
    ensure!(Path::new(file).is_file(), "there is no file {file}");
    let size = format!("{},{time},{bytes}", absolute(file)?.display());
    Ok(Column { workload: "trace", ours: size.clone(), peers: size, unit: Unit::Seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_stands_for_everything() {
        let all = columns(&[], false).unwrap();
        assert_eq!(all, columns(&asked(&["all"]), false).unwrap());
        assert_eq!((all[0].ours.as_str(), all[0].peers.as_str()), ("100000", "10000"));
        let quick = columns(&[], true).unwrap();
        assert_eq!((quick[0].ours.as_str(), quick[0].peers.as_str()), ("500", "500"));
    }

    #[test]
    fn a_size_of_the_users_is_everybodys() {
        let columns = columns(&asked(&["chain=7", "tree", "chain"]), false).unwrap();
        assert_eq!((columns[0].ours.as_str(), columns[0].peers.as_str()), ("7", "7"));
        let usual: Vec<_> = columns.iter().map(Column::is_usual).collect();
        assert_eq!(usual, [false, true, true]);
    }

    #[test]
    fn a_trace_is_found_from_anywhere() {
        let file = "Cargo.toml";
        let found = columns(&asked(&["trace=Cargo.toml,0.5,1"]), false).unwrap();
        assert_eq!(found[0].ours, format!("{},0.5,1", absolute(file).unwrap().display()));
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for wrong in ["sort", "sort=1", "trace", "trace=Cargo.toml,1", "trace=nowhere,1,1"] {
            assert!(columns(&asked(&[wrong]), false).is_err(), "{wrong}");
        }
    }
}
