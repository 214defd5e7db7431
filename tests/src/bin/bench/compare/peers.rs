//! The other systems: how each is set up, and what has to be said of it.

use anyhow::{Context as _, Result};

use super::plan::Column;

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
        let own = self.sizes.iter().find(|(name, _)| *name == column.workload);
        own.filter(|_| column.is_usual()).map_or(&*column.peers, |(_, size)| size)
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

#[cfg(test)]
mod tests {
    use super::super::plan::columns;
    use super::*;

    fn named(names: &[&str]) -> Result<Vec<&'static Peer>> {
        peers(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn extra_ones_are_asked_for_by_name() {
        assert!(named(&[]).unwrap().iter().all(|peer| !peer.extra));
        assert_eq!(named(&["dask-default"]).unwrap()[0].package, "dask");
        let error = named(&["dask", "dusk"]).unwrap_err().to_string();
        assert!(error.contains("`dusk`") && error.contains("taskiq"), "{error}");
    }

    #[test]
    fn a_system_may_have_sizes_of_its_own_unless_the_user_says_otherwise() {
        let columns = columns(&["chain=7", "tree", "chain"].map(ToOwned::to_owned), false).unwrap();
        let hyperqueue = named(&["hyperqueue"]).unwrap()[0];
        let sizes: Vec<_> = columns.iter().map(|column| hyperqueue.size(column)).collect();
        assert_eq!(sizes, ["7", "8192", "200"]);
    }
}
