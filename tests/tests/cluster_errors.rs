//! What a cluster says to bad input, and that it loses nothing by it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use bolthole::{Client, Delayed, Error, ErrorKind, TaskErrorKind, task};
use bolthole_broker::clock;
use bolthole_broker::id::TaskId;
use bolthole_broker::queue::{QueueName, Route};
use bolthole_broker::run::{Activate, Open, Refused, Stage};
use bolthole_broker::state::FailurePolicy;
use bolthole_broker::store;
use bolthole_tests::cluster::{Cluster, PATIENCE, until};
use bolthole_tests::servers::{self, RedisOptions, RedisServer};
use bolthole_tests::workload;
use bytes::Bytes;
use tokio::net::TcpSocket;
use tokio::task::block_in_place;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");

fn cluster() -> Result<Cluster> {
    Cluster::new(PROGRAM, servers::shared())
}

/// What is said instead of connecting, by a client here and by a worker process alike.
async fn refusal(amqp_url: &str, redis_url: &str) -> Result<Error> {
    let connecting = timeout(PATIENCE, Client::connect(amqp_url, redis_url)).await?;
    let error = connecting.err().context("the client has connected")?;
    let cluster = Cluster::at(PROGRAM, amqp_url.to_owned(), redis_url.to_owned())?;
    let (code, output) = cluster.start("worker", &["worker"], &[])?.finish()?;
    ensure!(code != 0, "the worker ended as if all were well: {output}");
    let said = error.to_string();
    let name = said.split(':').next().unwrap_or_default();
    ensure!(output.contains(name), "the worker said {output:?}, the client {said:?}");
    for url in [amqp_url, redis_url] {
        let password = url.split([':', '@']).nth(2).context("the URL has a password")?;
        ensure!(!output.contains(password), "a password was printed: {output}");
        ensure!(!format!("{error} {error:?}").contains(password), "a password is in: {error:?}");
    }
    Ok(error)
}

/// Fails unless the error is of this kind and says all of this.
fn assert_says(error: &Error, kind: &ErrorKind, parts: &[&str]) -> Result<()> {
    ensure!(error.kind() == kind, "{error:?}");
    let said = error.to_string();
    for part in parts {
        ensure!(said.contains(part), "{part:?} is not in: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_named() -> Result<()> {
    let servers = servers::shared();
    // Bound and not listening: nobody answers, and nobody else can take the port.
    let silent = TcpSocket::new_v4()?;
    silent.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let at = silent.local_addr()?.to_string();
    let error = refusal(&format!("amqp://me:s3cret-a@{at}/%2f"), &servers.redis.url()).await?;
    assert_says(&error, &ErrorKind::Connect, &["RabbitMQ", &at])?;
    let error = refusal(&servers.rabbit.url(), &format!("redis://me:s3cret-b@{at}/0")).await?;
    assert_says(&error, &ErrorKind::Connect, &["Redis", &at])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_and_not_printed() -> Result<()> {
    let servers = servers::shared();
    let at = format!("127.0.0.1:{}", servers.rabbit.port());
    let error = refusal(&format!("amqp://me:s3cret-c@{at}/%2f"), &servers.redis.url()).await?;
    assert_says(&error, &ErrorKind::Connect, &["RabbitMQ", &at, "password"])?;
    let at = format!("127.0.0.1:{}", servers.redis.port());
    let error = refusal(&servers.rabbit.url(), &format!("redis://me:s3cret-d@{at}/0")).await?;
    assert_says(&error, &ErrorKind::Connect, &["Redis", &at, "password"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_evict_is_refused() -> Result<()> {
    let config = vec!["maxmemory 100mb".to_owned(), "maxmemory-policy allkeys-lru".to_owned()];
    let options = RedisOptions { config, ..Default::default() };
    let evicting = block_in_place(|| RedisServer::start(&options))?;
    let error = refusal(&servers::shared().rabbit.url(), &evicting.url()).await?;
    assert_says(&error, &ErrorKind::Config, &["maxmemory-policy", "allkeys-lru", "noeviction"])
}

/// A task that the workers here do not have.
#[task]
fn unheard_of(value: u64) -> u64 {
    value
}

/// One that they have with other parameters.
#[task(name = "bolthole_tests::workload::plus")]
fn drifted(a: u64, b: &str) -> u64 {
    a + b.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_no_worker_can_run_is_refused() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("worker").await?;
    let client = cluster.client().await?;
    let unknown = unheard_of::delayed(1);
    let error = timeout(PATIENCE, client.compute(&unknown)).await?.err().context("it was run")?;
    assert_says(&error, &ErrorKind::NoCapableWorker, &["unheard_of", "link the crate"])?;
    let call = drifted::delayed(1, "two");
    let error = timeout(PATIENCE, client.run("drifted").compute(&call)).await?;
    let error = error.err().context("it was run")?;
    let says = ["workload::plus", "(u64, String) -> u64", "(u64, u64) -> u64"];
    assert_says(&error, &ErrorKind::NoCapableWorker, &says)?;
    ensure!(client.runs().await?.is_empty(), "a refused graph has left something behind");

    let stream = client.open("stream").await?;
    let handle = unheard_of::submit(&stream, 1).await?;
    let error = timeout(PATIENCE, handle.result()).await?.err().context("it was run")?;
    assert_says(&error, &ErrorKind::NoCapableWorker, &["unheard_of"])?;

    // A known one is run by the same worker.
    let sum = timeout(PATIENCE, client.compute(workload::plus::delayed(1, 2))).await??;
    ensure!(sum == 3, "{sum}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_a_new_worker_can_run_waits_for_it() -> Result<()> {
    let cluster = cluster()?;
    let client = cluster.client().await?;
    // Nobody is there who could be asked: the graph is accepted.
    let handle = client.run("early").submit(workload::plus::delayed(20, 22)).await?;
    ensure!(handle.try_result().await?.is_none());
    let _worker = cluster.worker("worker").await?;
    let sum = timeout(PATIENCE, handle.result()).await??;
    ensure!(sum == 42, "{sum}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_out_of_bounds_is_refused() -> Result<()> {
    let cluster = cluster()?;
    for (lease, says) in [("soon", "should be a time"), ("1ms", "500ms to 15s"), ("16s", "to 15s")]
    {
        let worker = cluster.start("worker", &["worker"], &[("BOLTHOLE_LEASE", lease)])?;
        let (code, output) = worker.finish()?;
        ensure!(code != 0 && output.contains(says), "{lease}: ended with {code}: {output}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_says_where_and_why() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("worker").await?;
    let (client, store) = (cluster.client().await?, cluster.store().await?);
    let workers = store.workers().await?;
    let address = &workers.first().context("the worker is not known")?.1.address;
    for (call, kind, why) in [
        (workload::refuse::delayed("no such day"), TaskErrorKind::User, "no such day"),
        (workload::break_down::delayed(), TaskErrorKind::Panic, "broken on purpose"),
    ] {
        // The error comes from two tasks further up.
        let call = workload::plus::delayed(workload::plus::delayed(call, 1), 1);
        let error = timeout(PATIENCE, client.compute(call)).await?.err().context("no error")?;
        let task = error.task().with_context(|| format!("no task has failed: {error:?}"))?;
        ensure!(task.kind == kind && task.worker == *address, "{task:?}");
        ensure!(error.to_string().contains(why), "{error}");
    }
    let sum = timeout(PATIENCE, client.compute(workload::plus::delayed(1, 2))).await??;
    ensure!(sum == 3, "{sum}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_parcel_is_put_aside() -> Result<()> {
    let cluster = cluster()?;
    let worker = cluster.worker("worker").await?;
    let (client, queue) = (cluster.client().await?, cluster.queue().await?);
    let garbage = Bytes::from_static(b"not a parcel");
    for route in Route::all(&QueueName::default()) {
        queue.publish(&route, garbage.clone()).await?;
    }
    let letters = until("the parcels are in the dead queue", async || {
        let letters = queue.dead_letters(10).await?;
        Ok((letters.len() >= 2).then_some(letters))
    });
    for letter in letters.await? {
        ensure!(letter.body == garbage, "{letter:?}");
        ensure!(letter.reason.contains("parcel"), "{letter:?}");
    }
    let sum = timeout(PATIENCE, client.compute(workload::map_reduce())).await??;
    ensure!(sum == workload::map_reduce_answer(), "{sum}");
    ensure!(worker.terminate()? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_argument_above_its_limit_is_refused() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("worker").await?;
    let client = cluster.client().await?;
    let most = bolthole_broker::limits::BLOB_BYTES_MAX;
    let length = |bytes: usize| -> Delayed<u64> {
        workload::digest::delayed(vec![Bytes::from(vec![0_u8; bytes])])
    };
    let error = timeout(PATIENCE, client.compute(length(most))).await?;
    let error = error.err().context("it was taken")?;
    assert_says(&error, &ErrorKind::Limit, &["digest", &most.to_string()])?;
    let blobs = (0..5_u8).map(|seed| client.put(&Bytes::from(vec![seed; most - 16])));
    let blobs = blobs.collect::<bolthole::Result<Vec<_>>>()?;
    let error = timeout(PATIENCE, client.compute(workload::digest::delayed(&blobs))).await?;
    assert_says(&error.err().context("they were taken")?, &ErrorKind::Limit, &["load them"])?;
    ensure!(client.runs().await?.is_empty(), "a refused graph has left something behind");
    let taken = timeout(PATIENCE, client.compute(length(1 << 20))).await??;
    ensure!(taken == workload::digest_of(&[Bytes::from(vec![0_u8; 1 << 20])]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_is_one_graph() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("worker").await?;
    let (client, other) = (cluster.client().await?, cluster.client().await?);
    let first = client.run("nightly").compute(workload::plus::delayed(1, 2));
    ensure!(timeout(PATIENCE, first).await?? == 3);
    let second = other.run("nightly").compute(workload::plus::delayed(1, 3));
    let error = timeout(PATIENCE, second).await?.err().context("it was taken")?;
    assert_says(&error, &ErrorKind::Conflict, &["nightly"])?;
    let again = other.run("nightly").compute(workload::plus::delayed(1, 2));
    ensure!(timeout(PATIENCE, again).await?? == 3);
    Ok(())
}

#[tokio::test]
async fn a_forged_segment_is_refused() -> Result<()> {
    let store = cluster()?.store().await?;
    let run = clock::new_run_id();
    let open = Open {
        name: None,
        digest: [0; 32],
        policy: FailurePolicy::FailFast,
        header: [].into(),
        client_lease_ms: 60_000,
        retention_ms: 60_000,
    };
    store.open(run, &open).await?;
    for segment in [0, 1] {
        let chunks = vec![Bytes::from_static(b"whatever")];
        let stage =
            Stage { segment, digest: [7; 16], pending: vec![0; 2], consumers: vec![0; 2], chunks };
        store.stage(run, &stage).await?;
    }
    let activate =
        |segment, edges| Activate { segment, digest: [7; 16], cursor: 0, edges, last: true };
    // From a later segment, from the task itself, from a task beyond the segment's end: a cycle
    // needs one of these.
    for (segment, input, consumer) in [(0, (1, 0), 1), (0, (0, 1), 1), (1, (0, 9), 0)] {
        let edge = (TaskId::new(input.0, input.1), consumer);
        match store.activate(run, &activate(segment, vec![edge])).await {
            Err(store::Error::Refused(Refused::Malformed(_))) => {}
            other => anyhow::bail!("the edge {edge:?} was answered with {other:?}"),
        }
    }
    store.activate(run, &activate(0, vec![])).await?;
    store.activate(run, &activate(1, vec![(TaskId::new(0, 1), 0)])).await?;
    store.purge(run).await?;
    Ok(())
}
