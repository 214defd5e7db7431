//! The store: the conformance suite in memory and on Redis.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use bolthole_broker::store::{Memory, Redis, Store};
use bolthole_tests::conformance::store::world::{Ground, Step, World};
use bolthole_tests::conformance::store::{lost, mend, reopened, revive, runs, tasks};
use bolthole_tests::servers::{self, RedisOptions, RedisServer};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

/// Histories of the comparison with the specification.
const HISTORIES: u32 = 96;

async fn redis() -> anyhow::Result<Store> {
    let url = servers::shared_redis().url();
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

        /// Every test on one server, each in a namespace that has its name.
        async fn all(server: &RedisServer) -> anyhow::Result<Vec<Redis>> {
            let mut stores = Vec::new();
            $(
                let store = Redis::connect(&server.url(), stringify!($test)).await?;
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
    runs::ends_once,
    runs::overdue,
    runs::events_wake,
    runs::blobs,
    runs::workers,
    runs::locks,
    runs::permits,
    runs::failures,
    runs::repeated_commits,
    tasks::refusals,
    tasks::staged_again,
    tasks::begun,
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

/// Whoever looks at what is stored knows every key that anything writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_that_is_written_is_strange() -> anyhow::Result<()> {
    let config = vec!["auto-aof-rewrite-percentage 0".to_owned()];
    let server = RedisServer::start(&RedisOptions { append_only: true, config })?;
    let stores = all(&server).await?;
    let mut kinds = BTreeSet::new();
    for key in server.written_keys()? {
        let (_, rest) = key.split_once(":bh:").with_context(|| format!("a key {key:?}"))?;
        let part = rest.split_once("}:").map_or(rest, |(_, part)| part);
        kinds.insert(part.split(':').next().unwrap_or_default().to_owned());
        // Deleted ones, too; what they held does not matter, but for what is read with the keys.
        if !rest.starts_with("n:") && rest != "runs" {
            server.cli(["SET", &key, "", "NX"])?;
        }
    }
    let parts = "a b bs c d e f h k l m n o p q r runs s w wd workers x";
    ensure!(kinds.iter().map(String::as_str).eq(parts.split(' ')), "{kinds:?}");
    for store in stores {
        let strange = store.keyspace().await?.strange;
        ensure!(strange.is_empty(), "{strange:?}");
    }
    Ok(())
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
