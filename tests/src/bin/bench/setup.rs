//! The system under measurement: servers and workers as processes of their own, or all of it here.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bolthole::Client;
use bolthole_tests::bench::usage;
use bolthole_tests::cluster::{Cluster, Member};
use bolthole_tests::servers::tls::{Certificate, TRUST, TlsPair};
use bolthole_tests::servers::{Pair, RabbitServer, RedisOptions, RedisServer};
use tokio::task::spawn_blocking;

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
        let (servers, cluster) = spawn_blocking(start).await??;
        let trust = std::env::var(TRUST).ok();
        let slots = slots.to_string();
        let mut environment = vec![("BOLTHOLE_SLOTS", slots.as_str()), ("RUST_LOG", "info")];
        environment.extend(unbatched.then_some((UNBATCHED, "1")));
        environment.extend(trust.as_deref().map(|file| (TRUST, file)));
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

/// The servers, by TLS if this process has a certificate for that, and a namespace on them.
fn start() -> Result<(Pair, Cluster)> {
    let program = std::env::current_exe()?;
    if let Some(certificate) = Certificate::trusted() {
        let TlsPair { servers, amqp_url, redis_url } = TlsPair::start(&certificate)?;
        return Ok((servers, Cluster::at(program, amqp_url, redis_url)?));
    }
    let servers = servers()?;
    let cluster = Cluster::new(program, &servers)?;
    Ok((servers, cluster))
}

/// Runs this program again with a certificate that it trusts: a process reads once whom it trusts.
pub(crate) fn again_with_trust() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(TRUST, certificate.file());
    let status = again.status()?;
    ensure!(status.success(), "{status}");
    Ok(())
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
