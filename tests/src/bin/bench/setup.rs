//! The system under measurement: servers and workers as processes of their own, or all of it here.

use std::collections::BTreeMap;
use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use bolthole::Client;
use bolthole_tests::bench::usage;
use bolthole_tests::cluster::{Cluster, Member};
use bolthole_tests::servers::{Pair, RabbitServer, RedisOptions, RedisServer};

use crate::live::Live;

/// Tells a worker process to commit each task by itself.
const UNBATCHED: &str = "BENCH_UNBATCHED";

/// What is measured, until it is dropped.
pub(crate) struct Setup {
    client: Client,
    cluster: Option<Processes>,
}

struct Processes {
    workers: Vec<Member>,
    /// Where each of them serves its metrics.
    health: Vec<String>,
    servers: Pair,
    cluster: Cluster,
}

impl Setup {
    /// Everything, with `variables` in the environment of workers that are processes; `unbatched` when
    /// each task is to be published and committed by itself.
    pub(crate) async fn start(
        embedded: bool,
        workers: u32,
        slots: u32,
        unbatched: bool,
        variables: &[(String, String)],
    ) -> Result<Self> {
        if embedded {
            ensure!(!unbatched, "without servers, nothing is saved by batches");
            let slots = usize::try_from(workers * slots)?;
            let client = Client::embedded_builder().slots(slots).start().await?;
            return Ok(Self { client, cluster: None });
        }
        let servers = tokio::task::spawn_blocking(servers).await??;
        let cluster = Cluster::new(std::env::current_exe()?, &servers)?;
        let slots = slots.to_string();
        let mut environment = vec![("BOLTHOLE_SLOTS", slots.as_str()), ("RUST_LOG", "info")];
        environment.extend(unbatched.then_some((UNBATCHED, "1")));
        environment.extend(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let (mut members, mut health) = (Vec::new(), Vec::new());
        for number in 0..workers {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            let mut environment = environment.clone();
            environment.push(("BOLTHOLE_HEALTH", &address));
            members.push(cluster.worker_with(&format!("worker-{number}"), &environment).await?);
            health.push(address);
        }
        let client = cluster.servers();
        let client = if unbatched { client.tasks_per_parcel(1) } else { client };
        let client = client.connect().await?;
        let processes = Processes { workers: members, health, servers, cluster };
        Ok(Self { client, cluster: Some(processes) })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// The namespace on the servers, when there are some.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref().map(|processes| &processes.cluster)
    }

    /// What results took on each worker; nothing of workers that are no processes.
    pub(crate) fn live(&self) -> Result<Vec<Live>> {
        let health = self.cluster.iter().flat_map(|processes| &processes.health);
        health.map(|address| Live::of(address)).collect()
    }

    pub(crate) fn servers(&self) -> Option<&Pair> {
        self.cluster.as_ref().map(|processes| &processes.servers)
    }

    /// The processes by what they are.
    pub(crate) fn roles(&self) -> BTreeMap<&'static str, Vec<u32>> {
        let mut roles = BTreeMap::from([("client", vec![std::process::id()])]);
        if let Some(Processes { workers, servers, .. }) = &self.cluster {
            roles.insert("redis", servers.redis.pid().into_iter().collect());
            roles.insert("rabbitmq", servers.rabbit.pid().into_iter().collect());
            roles.insert("workers", workers.iter().map(Member::id).collect());
        }
        roles
    }

    pub(crate) fn reset_peaks(&self) {
        self.roles().values().for_each(|processes| usage::reset_peak(processes));
    }

    /// The most memory that each process has had since, in MiB.
    pub(crate) fn peaks(&self) -> BTreeMap<&'static str, Vec<u64>> {
        let roles = self.roles().into_iter();
        roles.map(|(role, processes)| (role, usage::peak_rss_mib(&processes))).collect()
    }
}

/// Redis without its append-only file, as the other systems are measured.
pub(crate) fn servers() -> Result<Pair> {
    let rabbit = std::thread::spawn(RabbitServer::start);
    let redis = RedisServer::start(&RedisOptions::default())?;
    let rabbit = rabbit.join().ok().context("starting RabbitMQ panicked")??;
    Ok(Pair { rabbit, redis })
}

/// A worker of the benchmark, as a process.
#[tokio::main]
pub(crate) async fn work() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::new("info");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let worker = bolthole::worker::from_env()?;
    let unbatched = std::env::var_os(UNBATCHED).is_some();
    let worker = if unbatched { worker.tasks_per_commit(1) } else { worker };
    Ok(worker.run_async().await?)
}
