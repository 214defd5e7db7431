//! What can happen to a Redis Cluster, and to what is stored in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::collections::BTreeSet;
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::id::RunId;
use bolthole_broker::run::Committed;
use bolthole_broker::state::RunState;
use bolthole_broker::store::{Epoch, Error, Redis, Store};
use bolthole_tests::conformance::store::sample::{self, Sample};
use bolthole_tests::servers::{self, MASTERS, RedisCluster};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::task::block_in_place;
use tokio::time::timeout;

/// A moment in which nothing must succeed: however long it lasts, nothing may.
const MOMENT: Duration = Duration::from_millis(500);

/// The cluster that all tests here harm, one at a time. It is up and whole when taken.
async fn cluster() -> MutexGuard<'static, RedisCluster> {
    static CLUSTER: OnceCell<Mutex<RedisCluster>> = OnceCell::const_new();
    let start = async || block_in_place(|| Mutex::new(RedisCluster::start().unwrap()));
    let mut cluster = CLUSTER.get_or_init(start).await.lock().await;
    block_in_place(|| {
        for server in cluster.servers.iter_mut().filter(|server| server.pid().is_none()) {
            server.restart().unwrap();
        }
        cluster.wait_ok().unwrap();
    });
    cluster
}

async fn connect(cluster: &RedisCluster) -> (Store, String) {
    let namespace = servers::namespace();
    let store = Redis::connect(&cluster.url(), &namespace).await.unwrap();
    (Store::Redis(store), namespace)
}

fn key(namespace: &str, run: RunId, rest: &str) -> String {
    format!("{namespace}:bh:{{{:02x}}}{run}:{rest}", run.to_bytes()[15])
}

fn owner(cluster: &RedisCluster, namespace: &str, sample: &Sample) -> usize {
    block_in_place(|| cluster.owner(&key(namespace, sample.run, "h")).unwrap())
}

/// A run on each server, in their order.
async fn one_each(cluster: &RedisCluster, store: &Store, namespace: &str) -> [Sample; MASTERS] {
    let mut found = [const { None }; MASTERS];
    while found.iter().any(Option::is_none) {
        let sample = Sample::chain(store, 4).await.unwrap();
        let at = owner(cluster, namespace, &sample);
        found[at].get_or_insert(sample);
    }
    found.map(Option::unwrap)
}

fn written(reply: &Committed) -> RunState {
    match reply {
        Committed::Written { run, .. } => *run,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_spread_and_each_is_on_one_server_with_its_place_on_the_list() {
    let cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    let samples = one_each(&cluster, &store, &namespace).await;
    for (at, sample) in samples.iter().enumerate() {
        let run = sample.run.to_string();
        let of_run = |server: &servers::RedisServer| {
            let keys =
                server.cli(["--scan", "--pattern", &format!("{namespace}:*{run}:*")]).unwrap();
            keys.lines().filter(|key| !key.is_empty()).count()
        };
        for (other, server) in cluster.servers.iter().enumerate() {
            assert_eq!(of_run(server) > 0, at == other);
        }
        let bucket = sample.run.to_bytes()[15];
        let list = format!("{namespace}:bh:{{{bucket:02x}}}runs");
        assert_ne!(cluster.servers[at].cli(["ZSCORE", &list, &run]).unwrap(), "");
    }
    for sample in &samples {
        store.purge(sample.run).await.unwrap();
        assert!(!store.runs().await.unwrap().contains(&sample.run));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_one_server_has_lost_are_loaded_again() {
    let cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    for (server, sample) in cluster.servers.iter().zip(one_each(&cluster, &store, &namespace).await)
    {
        server.cli(["FUNCTION", "FLUSH"]).unwrap();
        written(&store.commit(sample.run, &sample.finish(&[0])).await.unwrap());
        server.cli(["FUNCTION", "FLUSH"]).unwrap();
        assert!(store.overdue().await.unwrap().is_empty(), "requests to all servers");
    }
}

/// A commit names the life of the server that has its run; the life of the store is that of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_restart_of_one_server_begins_another_life() {
    let mut cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    let other = Redis::connect(&cluster.url(), &namespace).await.unwrap();
    let [sample, beside, _] = one_each(&cluster, &store, &namespace).await;
    let before = store.epoch().await.unwrap();
    assert_eq!(Store::Redis(other.clone()).epoch().await.unwrap(), before, "all say the same");
    block_in_place(|| cluster.servers[0].kill());
    let (committer, run, commit) = (store.clone(), sample.run, sample.finish(&[0]));
    let committing = tokio::spawn(async move { committer.commit(run, &commit).await });
    block_in_place(|| cluster.servers[0].restart().unwrap());
    written(&committing.await.unwrap().unwrap());
    let after = store.epoch().await.unwrap();
    assert_ne!(before, after);
    assert_eq!(Store::Redis(other).epoch().await.unwrap(), after);
    let commit = sample.finish(&[1]);
    assert_eq!(store.commit_in(sample.run, &before, &commit).await.unwrap(), None);
    let never = Epoch("0123".to_owned());
    assert_eq!(store.commit_in(sample.run, &never, &commit).await.unwrap(), None);
    written(&store.commit_in(sample.run, &after, &commit).await.unwrap().unwrap());
    let commit = beside.finish(&[0]);
    written(&store.commit_in(beside.run, &before, &commit).await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_has_lost_its_runs_whole() {
    let mut cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    let samples = one_each(&cluster, &store, &namespace).await;
    let all: BTreeSet<RunId> = store.runs().await.unwrap().into_iter().collect();
    let before = store.epoch().await.unwrap();
    block_in_place(|| cluster.servers[1].empty().unwrap());
    assert_ne!(store.epoch().await.unwrap(), before);
    assert!(store.status(samples[1].run).await.unwrap().is_none());
    let left: BTreeSet<RunId> = store.runs().await.unwrap().into_iter().collect();
    assert!(left.is_subset(&all) && left.contains(&samples[0].run));
    for run in &all {
        let is_there = store.status(*run).await.unwrap().is_some();
        assert_eq!(is_there, left.contains(run), "what is there is listed, and nothing else");
    }
    let Store::Redis(redis) = &store else { unreachable!() };
    let space = redis.keyspace().await.unwrap();
    assert!(space.runs.values().all(|keys| keys.listed && keys.made), "{space:?}");
    one_each(&cluster, &store, &namespace).await;
}

/// Whoever misses one server has no contact with the store, so that it judges nobody meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_one_server_nobody_is_in_contact() {
    let mut cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    let record = sample::worker();
    let hold = Duration::from_secs(60);
    let index = store.join(&record, hold).await.unwrap();
    let home = block_in_place(|| cluster.owner(&format!("{namespace}:bh:{{w}}workers")).unwrap());
    assert!(store.beat(index, &record, hold).await.unwrap());
    cluster.servers[(home + 1) % MASTERS].kill();
    let beaten = timeout(MOMENT, store.beat(index, &record, hold)).await;
    assert!(!matches!(beaten, Ok(Ok(_))), "{beaten:?}");
    block_in_place(|| cluster.servers[(home + 1) % MASTERS].restart().unwrap());
    assert!(store.beat(index, &record, hold).await.unwrap());
    assert_eq!(store.workers().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_on_its_way_is_waited_for() {
    let cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    let [sample, ..] = one_each(&cluster, &store, &namespace).await;
    let key = |rest| key(&namespace, sample.run, rest);
    written(&store.commit(sample.run, &sample.finish(&[0])).await.unwrap());
    let before = store.epoch().await.unwrap();
    let slot = cluster.slot(&key("h")).unwrap();
    block_in_place(|| {
        cluster.begin_move(&slot, 0, 1).unwrap();
        cluster.move_key(&key("a:0"), 0, 1).unwrap();
    });
    let commit = sample.finish(&[1]);
    // The header is where it was, the columns are not: neither half may be believed.
    let early = timeout(MOMENT, store.commit(sample.run, &commit)).await;
    assert!(early.is_err(), "{early:?}");
    let early = timeout(MOMENT, store.states(sample.run, 0)).await;
    assert!(early.is_err(), "{early:?}");
    block_in_place(|| cluster.move_key(&key("h"), 0, 1).unwrap());
    let early = timeout(MOMENT, store.commit(sample.run, &commit)).await;
    assert!(early.is_err(), "{early:?}");
    block_in_place(|| cluster.end_move(&slot, 0, 1).unwrap());
    written(&store.commit(sample.run, &commit).await.unwrap());
    assert_eq!(owner(&cluster, &namespace, &sample), 1);
    assert_ne!(store.epoch().await.unwrap(), before, "who has what is a part of the life");
    assert_eq!(store.status(sample.run).await.unwrap().unwrap().finished, 2);
    block_in_place(|| {
        cluster.begin_move(&slot, 1, 0).unwrap();
        cluster.end_move(&slot, 1, 0).unwrap();
    });
    written(&store.commit(sample.run, &sample.finish(&[2])).await.unwrap());
    assert_eq!(store.epoch().await.unwrap(), before);
}

async fn refusal(url: &str) -> String {
    let error = Redis::connect(url, "").await.unwrap_err();
    let password = url.split_once("default:").and_then(|(_, rest)| rest.split_once('@'));
    if let Some((password, _)) = password {
        assert!(!format!("{error} {error:?}").contains(password), "{error:?}");
    }
    format!("{error} {error:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_cluster_is_said() {
    let mut cluster = cluster().await;
    let url = cluster.url();
    let (hosts, login) = (url.rsplit_once('@').unwrap().1, url.split_once("://").unwrap().1);
    let password = login.split_once(':').unwrap().1.split_once('@').unwrap().0;
    let store = Redis::connect(&url, "").await.unwrap();
    assert!(!format!("{store:?}").contains(password));
    assert_eq!(store.address(), hosts);
    // One of its servers is enough to find the others.
    let one = format!("redis+cluster://default:{password}@127.0.0.1:{}", cluster.servers[2].port());
    Redis::connect(&one, "").await.unwrap();

    let wrong = refusal(&url.replace(password, "mistaken")).await;
    assert!(wrong.contains("Denied"), "{wrong}");
    let plain = one.replace("redis+cluster://", "redis://");
    let said = refusal(&plain).await;
    assert!(said.contains("Unsuitable") && said.contains("write redis+cluster://"), "{said}");
    let single = block_in_place(servers::shared_redis).url();
    let said = refusal(&single.replace("redis://", "redis+cluster://")).await;
    assert!(said.contains("Unsuitable") && said.contains("write redis://"), "{said}");
    let last = &cluster.servers[2];
    last.cli(["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let evicting = refusal(&url).await;
    assert!(evicting.contains("allkeys-lru"), "{evicting}");
    assert!(evicting.contains(&last.port().to_string()), "which of them: {evicting}");
    last.cli(["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();

    block_in_place(|| cluster.servers.iter_mut().for_each(servers::RedisServer::kill));
    let error = Redis::connect(&url, "").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(hosts), "{error}");
}

async fn bolthole(args: &[&str]) -> (u8, String) {
    let mut out = Vec::new();
    let args = std::iter::once(&"bolthole").chain(args).map(ToString::to_string);
    let code = bolthole_cli::run(args, &mut out).await;
    (code, String::from_utf8(out).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_sees_all_servers() {
    let cluster = cluster().await;
    let (store, namespace) = connect(&cluster).await;
    let samples = one_each(&cluster, &store, &namespace).await;
    let runs = store.runs().await.unwrap().len();
    let url = cluster.url();
    let servers = ["--redis-url", &url, "--namespace", &namespace];
    let verb = async |args: &[&str]| bolthole(&[args, &servers].concat()).await;
    let (code, text) = verb(&["du"]).await;
    assert!(code == 0 && text.contains(&format!("in {runs} runs")), "{text}");
    assert!(samples.iter().all(|sample| text.contains(&sample.run.to_string())), "{text}");
    let (_, text) = verb(&["doctor"]).await;
    assert!(text.contains("slots on 3 servers") && text.contains("noeviction"), "{text}");
    // Off the list of one server, a rest without a header on another.
    let (run, rest) = (samples[1].run, rest_on(&cluster, &namespace, 2));
    let list = format!("{namespace}:bh:{{{:02x}}}runs", run.to_bytes()[15]);
    cluster.servers[1].cli(["ZREM", &list, &run.to_string()]).unwrap();
    cluster.servers[2].cli(["SET", &key(&namespace, rest, "a:0"), "columns"]).unwrap();
    let (code, text) = verb(&["fsck"]).await;
    assert!(code == 1 && text.contains("not on the list of runs"), "{text}");
    assert!(text.contains("1 keys without a header"), "{text}");
    // The samples have no descriptors that could be read: whoever repairs them ends them.
    verb(&["fsck", "--repair"]).await;
    let (_, text) = verb(&["fsck"]).await;
    assert!(!text.contains("list of runs") && !text.contains("without a header"), "{text}");
    assert!(store.runs().await.unwrap().contains(&run));
    assert_eq!(cluster.keys(&format!("{namespace}:*{rest}")).unwrap(), [""; 0]);
    let (code, text) = verb(&["gc", "--ended", "--yes"]).await;
    assert!(code == 0 && text.contains(&run.to_string()), "{text}");
    assert_eq!(cluster.keys(&format!("{namespace}:*{run}")).unwrap(), [""; 0]);
}

/// A run of which nothing is there, whose keys would be on this server.
fn rest_on(cluster: &RedisCluster, namespace: &str, server: usize) -> RunId {
    loop {
        let run = clock::new_run_id();
        if cluster.owner(&key(namespace, run, "h")).unwrap() == server {
            return run;
        }
    }
}
