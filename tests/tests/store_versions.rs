//! A worker of another version, whose record cannot be understood, hides no other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolthole_broker::id::Incarnation;
use bolthole_broker::store::{Error, Redis, Store, WorkerRecord};
use bolthole_tests::conformance::store::sample;
use bolthole_tests::servers;

#[tokio::test]
async fn a_worker_that_cannot_be_understood_hides_no_other() -> Result<()> {
    let namespace = servers::namespace();
    let server = servers::shared_redis();
    let store = Store::Redis(Redis::connect(&server.url(), &namespace).await?);
    let record = |life| WorkerRecord { incarnation: Incarnation::new(life), ..sample::worker() };
    let hold = Duration::from_secs(600);
    let strange = store.join(&record(1), hold).await?;
    let keys = server.cli(["--scan", "--pattern", &format!("{namespace}:bh:w*")])?;
    let key = keys.lines().find(|key| server.cli(["TYPE", key]).is_ok_and(|kind| kind == "string"));
    let plain = store.join(&record(2), hold).await?;
    server.cli(["SET", key.context("a record")?, "another version", "KEEPTTL"])?;
    let living: Vec<_> = store.workers().await?.into_iter().map(|(index, _)| index).collect();
    ensure!(living == [plain], "{living:?}");
    ensure!(store.deaths().await?.is_empty(), "it was taken for dead");
    let error = store.worker(strange).await.err().context("it was understood")?;
    ensure!(matches!(error, Error::Corrupt(_)), "{error:?}");
    Ok(())
}
