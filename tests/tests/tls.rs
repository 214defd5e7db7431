//! A cluster whose servers are reached by TLS.

use anyhow::{Context as _, Result, ensure};
use bolthole_tests::cluster::Cluster;
use bolthole_tests::servers::tls::{Certificate, TRUST, TlsPair};
use bolthole_tests::workload;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_behind_tls_finds_the_answer() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    let servers = TlsPair::start(&certificate)?;
    let (amqp_url, redis_url) = (servers.amqp_url.clone(), servers.redis_url.clone());
    ensure!(amqp_url.starts_with("amqps://") && redis_url.starts_with("rediss://"));
    let cluster = Cluster::at(PROGRAM, amqp_url, redis_url)?;
    let file = certificate.file();
    let trust = [(TRUST, file.to_str().context("a folder with a strange name")?)];

    let stranger = cluster.start("stranger", &["client", "secret"], &[])?;
    let (code, said) = stranger.finish()?;
    ensure!(code != 0 && said.contains("certificate"), "it trusts nobody here: {code}, {said}");

    let _workers =
        [cluster.worker_with("one", &trust).await?, cluster.worker_with("two", &trust).await?];
    let answer = cluster.start("client", &["client", "secret"], &trust)?.answer()?;
    ensure!(Some(answer) == workload::etl_answer(), "{answer}");
    Ok(())
}
