//! The store: the conformance suite in memory and on Redis.

use bolthole_broker::store::{Memory, Redis, Store};
use bolthole_tests::conformance::store::world::World;
use bolthole_tests::conformance::store::{mend, reopened, revive, runs, tasks};
use bolthole_tests::servers::{self, RedisOptions, RedisServer};
use proptest::prelude::*;

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
    runs::failures,
    runs::repeated_commits,
    tasks::refusals,
    tasks::staged_again,
    tasks::slices,
    tasks::leases,
    tasks::evicted,
    tasks::retries,
    tasks::suspects,
    tasks::lost_results,
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
    tasks::spawned,
    tasks::largest,
);

#[test]
fn redis_does_what_the_specification_says() {
    let server = RedisServer::start(&RedisOptions::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = runtime.block_on(Redis::connect(&server.url(), &servers::namespace())).unwrap();
    let (memory, redis) = (Store::Memory(Memory::new()), Store::Redis(redis));
    let config =
        ProptestConfig { cases: HISTORIES, failure_persistence: None, ..Default::default() };
    proptest!(config, |(seed: u64, steps in 1_usize..80)| {
        let walk = async {
            let mut world = World::open(&memory, &redis, seed).await?;
            world.walk(steps).await
        };
        let result = runtime.block_on(walk);
        prop_assert!(result.is_ok(), "{:#}", result.unwrap_err());
    });
    assert_eq!(server.cli(["DBSIZE"]).unwrap(), "0");
}
