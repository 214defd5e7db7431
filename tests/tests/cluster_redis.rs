//! Clusters of workers on a Redis Cluster: same answers, whatever becomes of one of its servers.

use anyhow::{Context as _, Result, bail, ensure};
use bolthole::Client;
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway, until};
use bolthole_tests::servers::{MASTERS, RedisCluster, RedisServer, shared_rabbit};
use bolthole_tests::workload::{self, HOLD};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

/// Runs that are computed at the same time: on more than one server, most likely.
const RUNS: usize = 6;
/// Runs among which there is one on each server, as good as certainly.
const MANY: usize = 200;

/// The store that the tests here harm, one at a time.
async fn redis() -> Result<MutexGuard<'static, RedisCluster>> {
    static REDIS: OnceCell<Mutex<RedisCluster>> = OnceCell::const_new();
    let start = async || block_in_place(RedisCluster::start).map(Mutex::new);
    Ok(REDIS.get_or_try_init(start).await?.lock().await)
}

/// Two workers and a client on such a store.
struct Scene {
    cluster: Cluster,
    workers: [Member; 2],
    client: Client,
}

impl Scene {
    async fn new(redis: &RedisCluster) -> Result<Self> {
        let amqp = block_in_place(shared_rabbit).url();
        let cluster = Cluster::at(env!("CARGO_BIN_EXE_cluster"), amqp, redis.url())?;
        let workers = [cluster.worker("one").await?, cluster.worker("two").await?];
        let client = cluster.client().await?;
        Ok(Self { cluster, workers, client })
    }

    /// What the workers have written.
    fn logs(&self) -> String {
        let logs = self.workers.iter().map(|worker| worker.output().unwrap_or_default());
        logs.collect::<Vec<_>>().join("\n")
    }

    /// Computes several graphs at once.
    fn compute(&self, hold: &'static str) -> JoinSet<Result<()>> {
        let mut computing = JoinSet::new();
        for number in 0..RUNS {
            let run = self.client.run(format!("run {number}")).header(HOLD, hold);
            computing.spawn(async move {
                let answer = run.compute(workload::etl()).await?;
                ensure!(answer == workload::etl_answer(), "{answer:?}");
                Ok(())
            });
        }
        computing
    }

    /// Waits for all answers.
    async fn end(&mut self, mut computing: JoinSet<Result<()>>) -> Result<()> {
        while let Some(computed) = timeout(PATIENCE, computing.join_next())
            .await
            .with_context(|| format!("no answer; the workers wrote:\n{}", self.logs()))?
        {
            computed?.with_context(|| self.logs())?;
        }
        for worker in &mut self.workers {
            ensure!(worker.is_running()?, "a worker has ended: {}", worker.output()?);
        }
        Ok(())
    }

    /// Every run has finished all its tasks, and `bolthole fsck` finds nothing wrong.
    async fn check(&self, redis: &RedisCluster) -> Result<()> {
        for number in 0..RUNS {
            let status = self.client.attach(&format!("run {number}")).await?.status().await?;
            ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
        }
        let (url, mut out) = (redis.url(), Vec::new());
        let namespace = self.cluster.namespace();
        let args = ["bolthole", "fsck", "--redis-url", &url, "--namespace", namespace];
        let code = bolthole_cli::run(args.map(ToOwned::to_owned), &mut out).await;
        ensure!(code == 0, "{}", String::from_utf8_lossy(&out));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_on_all_servers_are_computed() -> Result<()> {
    let redis = redis().await?;
    let mut scene = Scene::new(&redis).await?;
    let computing = scene.compute("1");
    scene.end(computing).await?;
    scene.check(&redis).await?;
    let pattern = format!("{}:bh:*:h", scene.cluster.namespace());
    let on_all = || -> Result<bool> {
        let mut all = true;
        for server in &redis.servers {
            all &= !server.cli(["--scan", "--pattern", &pattern])?.is_empty();
        }
        Ok(all)
    };
    for number in 0..MANY {
        if block_in_place(on_all)? {
            return Ok(());
        }
        let run = scene.client.run(format!("one more {number}"));
        ensure!(timeout(PATIENCE, run.compute(workload::square::delayed(3))).await?? == 9);
    }
    bail!("a server has none of {MANY} runs");
}

/// Computes while `harm` is done to each server in turn.
async fn harmed(
    redis: &mut RedisCluster,
    harm: impl Fn(&mut RedisServer) -> Result<()>,
) -> Result<Scene> {
    let mut scene = Scene::new(redis).await?;
    let computing = scene.compute("80");
    underway(&scene.client, "run 0", 5).await?;
    for server in 0..MASTERS {
        block_in_place(|| {
            harm(&mut redis.servers[server])?;
            redis.wait_ok()
        })?;
    }
    scene.end(computing).await?;
    Ok(scene)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_killed_and_come_back() -> Result<()> {
    let mut redis = redis().await?;
    let harm = |server: &mut RedisServer| {
        server.kill();
        server.restart()
    };
    let scene = harmed(&mut redis, harm).await?;
    scene.check(&redis).await
}

/// What is lost is staged again by the client that still has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_come_back_empty() -> Result<()> {
    let mut redis = redis().await?;
    harmed(&mut redis, RedisServer::empty).await.map(drop)
}

/// The name of a run may be lost without the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_lost_is_given_again() -> Result<()> {
    let mut redis = redis().await?;
    let scene = Scene::new(&redis).await?;
    let (folder, namespace) = (scene.cluster.folder(), scene.cluster.namespace());
    let gate = folder.join("gate").to_string_lossy().into_owned();
    for number in 0..MANY {
        let name = format!("named {number}");
        let run = scene.client.run(&name);
        let handle = run.submit(workload::gate::delayed(7, &*gate)).await?;
        let id = handle.run();
        let header = format!("{namespace}:bh:{{{:02x}}}{id}:h", id.to_bytes()[15]);
        let home = block_in_place(|| redis.owner(&format!("{namespace}:bh:n:{name}")))?;
        if block_in_place(|| redis.owner(&header))? == home {
            continue;
        }
        block_in_place(|| {
            redis.servers[home].empty()?;
            redis.wait_ok()
        })?;
        let found =
            until("the name is there again", async || Ok(scene.client.attach(&name).await.ok()))
                .await?;
        ensure!(found.id() == id, "{} instead of {id}", found.id());
        std::fs::write(&gate, "")?;
        ensure!(timeout(PATIENCE, handle.result()).await?? == 7);
        return Ok(());
    }
    bail!("each of {MANY} names is where its run is");
}
