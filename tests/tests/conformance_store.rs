//! The store: the conformance suite in memory, on Redis and on a Redis Cluster.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use bolthole_broker::store::{Memory, Redis, Store};
use bolthole_tests::conformance::store::world::{Ground, Step, World};
use bolthole_tests::conformance::store::{lost, mend, reopened, revive, runs, staging, tasks};
use bolthole_tests::servers::{self, RedisCluster, RedisOptions, RedisServer};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

/// Histories of the comparison with the specification.
const HISTORIES: u32 = 96;

async fn redis() -> anyhow::Result<Store> {
    let url = servers::shared_redis().url();
    Ok(Store::Redis(Redis::connect(&url, &servers::namespace()).await?))
}

async fn cluster() -> anyhow::Result<Store> {
    let url = tokio::task::block_in_place(servers::shared_redis_cluster).url();
    Ok(Store::Redis(Redis::connect(&url, &servers::namespace()).await?))
}

macro_rules! conformance {
    ($($module:ident::$test:ident),+ $(,)?) => {
        mod memory {
            use super::*;

            $(#[tokio::test]
            async fn $test() -> anyhow::Result<()> {
                $module::$test(&Store::Memory(Memory::new())).await
            })+
        }

        mod redis {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                $module::$test(&super::redis().await?).await
            })+
        }

        mod cluster {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                $module::$test(&super::cluster().await?).await
            })+
        }

        /// Every test on one store, each in a namespace that has its name.
        async fn all(url: &str) -> anyhow::Result<Vec<Redis>> {
            let mut stores = Vec::new();
            $(
                let store = Redis::connect(url, stringify!($test)).await?;
                $module::$test(&Store::Redis(store.clone())).await.context(stringify!($test))?;
                stores.push(store);
            )+
            Ok(stores)
        }
    };
}

conformance!(
    runs::names,
    runs::purged_is_unknown,
    runs::reaped,
    runs::ends_once,
    runs::overdue,
    runs::events_wake,
    runs::blobs,
    runs::workers,
    runs::neighbours,
    runs::workers_come_back,
    runs::locks,
    runs::permits,
    runs::seeking,
    runs::failures,
    runs::repeated_commits,
    staging::refusals,
    staging::staged_again,
    staging::begun,
    staging::begun_and_closed,
    tasks::lives,
    tasks::slices,
    tasks::leases,
    tasks::evicted,
    tasks::retries,
    tasks::suspects,
    tasks::lost_results,
    lost::remembered,
    reopened::when_done,
    reopened::after_a_failure,
    tasks::held,
    tasks::relocated,
    tasks::given_back,
    tasks::pins,
    revive::taken_up_again,
    revive::in_slices,
    mend::counts,
    mend::totals,
    mend::examined,
    mend::unrecorded,
    tasks::spawned,
    tasks::largest,
);

/// What is written of a run, by the first part of what follows its id, and what is not of a run.
const KINDS: &str = "a b bs c d e f h i k l m n o p q r runs s w wd workers x";

/// Notes the kinds of keys that a server has written, and puts back those it has deleted: what they
/// held does not matter, but for what is read with the keys.
fn put_back_all(server: &RedisServer, kinds: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for key in server.written_keys()? {
        let (_, rest) = key.split_once(":bh:").with_context(|| format!("a key {key:?}"))?;
        // A run and the tag that it has in a cluster.
        let part = rest.split_once('}').map_or(rest, |(_, part)| part);
        let part = part.strip_prefix(':').unwrap_or(part);
        let of_run = |run: &str| run.len() == 32;
        let part =
            part.split_once(':').filter(|(run, _)| of_run(run)).map_or(part, |(_, part)| part);
        let kind = part.split(':').next().unwrap_or_default();
        kinds.insert(kind.to_owned());
        if !rest.starts_with("n:") && kind != "runs" {
            server.cli(["SET", &key, "", "NX"])?;
        }
    }
    Ok(())
}

async fn nothing_is_strange(stores: Vec<Redis>, kinds: BTreeSet<String>) -> anyhow::Result<()> {
    ensure!(kinds.iter().map(String::as_str).eq(KINDS.split(' ')), "{kinds:?}");
    for store in stores {
        let strange = store.keyspace().await?.strange;
        ensure!(strange.is_empty(), "{strange:?}");
    }
    Ok(())
}

/// Whoever looks at what is stored knows every key that anything writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_that_is_written_is_strange() -> anyhow::Result<()> {
    let config = vec!["auto-aof-rewrite-percentage 0".to_owned()];
    let server = RedisServer::start(&RedisOptions { append_only: true, config })?;
    let stores = all(&server.url()).await?;
    let mut kinds = BTreeSet::new();
    put_back_all(&server, &mut kinds)?;
    nothing_is_strange(stores, kinds).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_that_is_written_to_a_cluster_is_strange() -> anyhow::Result<()> {
    let cluster = tokio::task::block_in_place(RedisCluster::start)?;
    let stores = all(&cluster.url()).await?;
    let mut kinds = BTreeSet::new();
    for server in &cluster.servers {
        put_back_all(server, &mut kinds)?;
    }
    nothing_is_strange(stores, kinds).await
}

#[test]
fn redis_does_what_the_specification_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ground = RefCell::new(runtime.block_on(Ground::new()).unwrap());
    let config =
        ProptestConfig { cases: HISTORIES, failure_persistence: None, ..Default::default() };
    let steps = proptest::collection::vec(any::<Step>(), 1..80);
    proptest!(config, |(seed: u64, history in steps)| {
        let ground = &mut *ground.borrow_mut();
        let walk = async {
            World::open(ground, seed).await?.walk(&history).await
        };
        let result = runtime.block_on(walk);
        let left = ground.server().cli(["DBSIZE"]).unwrap();
        ground.clear().unwrap();
        prop_assert!(result.is_ok(), "{:#}", result.unwrap_err());
        prop_assert_eq!(left, "0", "keys are left");
    });
}
