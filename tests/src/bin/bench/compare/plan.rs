//! What is compared: which systems, on which workloads, of which sizes.

use std::path::{Path, absolute};

use anyhow::{Context as _, Result, bail, ensure};

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

/// Another system, and how it is set up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// As `--peers` names it.
    pub(crate) key: &'static str,
    /// As `installed.py` names it.
    pub(crate) package: &'static str,
    pub(crate) driver: &'static str,
    pub(crate) config: &'static str,
    pub(crate) name: &'static str,
    /// Whether it needs a RabbitMQ and a Redis.
    pub(crate) servers: bool,
    /// What its driver does not offer.
    pub(crate) lacks: &'static [&'static str],
    /// Sizes of its own, where a task takes it too long even for the others' size.
    sizes: &'static [(&'static str, &'static str)],
    /// Only when it is asked for by name.
    pub(crate) extra: bool,
    pub(crate) note: &'static str,
}

const PLAIN: Peer = Peer {
    key: "",
    package: "",
    driver: "",
    config: "default",
    name: "",
    servers: false,
    lacks: &[],
    sizes: &[],
    extra: false,
    note: "",
};

const STAGES: &str = "no graphs of a general kind: stage by stage from the client, large results \
                      through Redis";

pub(crate) const PEERS: [Peer; 9] = [
    Peer {
        key: "dask",
        package: "dask",
        driver: "peer_dask.py",
        config: "tuned",
        name: "Dask",
        note: "without dashboard, nannies, profiler, stealing, spilling and memory manager",
        ..PLAIN
    },
    Peer {
        key: "dask-default",
        package: "dask",
        driver: "peer_dask.py",
        name: "Dask as shipped",
        extra: true,
        ..PLAIN
    },
    Peer { key: "ray", package: "ray", driver: "peer_ray.py", name: "Ray", ..PLAIN },
    Peer {
        key: "parsl",
        package: "parsl",
        driver: "peer_parsl.py",
        name: "Parsl",
        note: "results travel through the client",
        ..PLAIN
    },
    Peer {
        key: "hyperqueue",
        package: "hyperqueue",
        driver: "peer_hyperqueue.py",
        name: "HyperQueue",
        lacks: &["shuffle", "bigfan", "trace"],
        sizes: &[("chain", "200"), ("latency", "3")],
        note: "a task is a process, edges carry no data, its client asks once a second whether a job \
               is over",
        ..PLAIN
    },
    Peer {
        key: "celery",
        package: "celery",
        driver: "peer_celery.py",
        config: "threads",
        name: "Celery",
        servers: true,
        note: STAGES,
        ..PLAIN
    },
    Peer {
        key: "celery-prefork",
        package: "celery",
        driver: "peer_celery.py",
        config: "prefork",
        name: "Celery, prefork",
        servers: true,
        extra: true,
        note: STAGES,
        ..PLAIN
    },
    Peer {
        key: "dramatiq",
        package: "dramatiq",
        driver: "peer_dramatiq.py",
        name: "Dramatiq",
        servers: true,
        note: STAGES,
        ..PLAIN
    },
    Peer {
        key: "taskiq",
        package: "taskiq",
        driver: "peer_taskiq.py",
        name: "TaskIQ",
        servers: true,
        note: STAGES,
        ..PLAIN
    },
];

impl Peer {
    /// How large a workload is for it.
    pub(crate) fn size<'a>(&self, column: &'a Column) -> &'a str {
        let common = WORKLOADS
            .iter()
            .any(|(name, _, _, peers, _)| *name == column.workload && *peers == column.peers);
        let own = self.sizes.iter().find(|(name, _)| common && *name == column.workload);
        own.map_or(&column.peers, |(_, size)| size)
    }
}

/// The peers of these names, or the usual ones.
pub(crate) fn peers(names: &[String]) -> Result<Vec<&'static Peer>> {
    if names.is_empty() {
        return Ok(PEERS.iter().filter(|peer| !peer.extra).collect());
    }
    let find = |name: &String| {
        let known = || PEERS.map(|peer| peer.key).join(", ");
        PEERS
            .iter()
            .find(|peer| peer.key == name)
            .with_context(|| format!("there is no driver for `{name}`; there are {}", known()))
    };
    names.iter().map(find).collect()
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
        assert!(peers(&[]).unwrap().iter().all(|peer| !peer.extra));
    }

    #[test]
    fn a_size_of_the_users_is_everybodys() {
        let columns = columns(&asked(&["chain=7", "tree", "chain"]), false).unwrap();
        assert_eq!((columns[0].ours.as_str(), columns[0].peers.as_str()), ("7", "7"));
        let hyperqueue = peers(&asked(&["hyperqueue"])).unwrap()[0];
        let sizes: Vec<_> = columns.iter().map(|column| hyperqueue.size(column)).collect();
        assert_eq!(sizes, ["7", "8192", "200"]);
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
        let error = peers(&asked(&["dask", "dusk"])).unwrap_err().to_string();
        assert!(error.contains("`dusk`") && error.contains("taskiq"), "{error}");
    }
}
