//! The store: the conformance suite in memory and on Redis.

use std::cell::RefCell;

use bolthole_broker::store::{Memory, Redis, Store};
use bolthole_tests::conformance::store::world::{Ground, Step, World};
use bolthole_tests::conformance::store::{lost, mend, reopened, revive, runs, tasks};
use bolthole_tests::servers;
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
    tasks::spawned,
    tasks::largest,
);

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
