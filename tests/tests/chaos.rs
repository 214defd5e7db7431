//! A few random schedules of faults on real processes, others each time, and those that once found
//! something. `cargo run -p bolthole-tests --bin chaos -- --schedules 300` plays many;
//! `CHAOS_SEED=7 cargo test -p bolthole-tests --test chaos` plays those of a seed again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolthole_broker::clock;
use bolthole_tests::chaos::schedule::Schedule;
use bolthole_tests::chaos::sitting::{Options, play_once, sit};

/// No schedule begins later than this, so that a busy machine plays fewer of them.
const WITHIN: Duration = Duration::from_secs(60);

fn options(seed: u64) -> Result<Options> {
    let failures = std::env::temp_dir().join("bolthole-chaos");
    std::fs::create_dir_all(&failures)?;
    Ok(Options {
        program: env!("CARGO_BIN_EXE_chaos").to_owned(),
        schedules: 20,
        seed,
        jobs: 4,
        failures,
        shrink: false,
        within: WITHIN,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_lose_nothing_and_commit_nothing_twice() -> Result<()> {
    let seed = match std::env::var("CHAOS_SEED") {
        Ok(seed) => seed.parse().context("CHAOS_SEED is a number")?,
        Err(_) => clock::random_u64(),
    };
    let summary = sit(&options(seed)?).await?;
    ensure!(summary.findings.is_empty(), "CHAOS_SEED={seed}: {summary}");
    ensure!(summary.schedules > 0, "CHAOS_SEED={seed}: nothing was played: {summary}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_that_once_found_something_find_nothing() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schedules");
    let spare = Arc::default();
    let mut played = 0;
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let schedule = Schedule::load(&path)?;
        let report = play_once(&options(0)?, &spare, &schedule).await?;
        ensure!(report.findings.is_empty(), "{}: {:?}", path.display(), report.findings);
        played += 1;
    }
    ensure!(played > 0, "{} is empty", folder.display());
    Ok(())
}
