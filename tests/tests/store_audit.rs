//! The audit of both stores.

use anyhow::Result;
use bolthole_broker::store::{Memory, Redis, Store};
use bolthole_tests::conformance::store::{audit, revive, runs, tasks};
use bolthole_tests::servers;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_write_down_the_same() -> Result<()> {
    let url = servers::shared_redis().url();
    let redis = Redis::connect(&url, &servers::namespace()).await?;
    let (memory, redis) = (Store::Memory(Memory::new()), Store::Redis(redis));
    for store in [&memory, &redis] {
        store.start_audit().await?;
        runs::failures(store).await?;
        runs::repeated_commits(store).await?;
        runs::ends_once(store).await?;
        tasks::slices(store).await?;
        tasks::retries(store).await?;
        tasks::lost_results(store).await?;
        tasks::relocated(store).await?;
        tasks::given_back(store).await?;
        tasks::evicted(store).await?;
        tasks::pins(store).await?;
        tasks::spawned(store).await?;
        revive::taken_up_again(store).await?;
    }
    audit::agree(&memory, &redis).await
}
