//! Processes that abort or stop at every place of the protocol: same answers, each task committed
//! once. The long form is `cargo run -p bolthole-tests --bin failpoints -- --repeats 50`.

use std::path::Path;

use anyhow::{Result, ensure};
use bolthole_tests::drill::{Drill, drill};
use bolthole_tests::servers;
use futures_util::StreamExt as _;
use futures_util::stream::iter;

const PROGRAM: &str = env!("CARGO_BIN_EXE_failpoints");
/// Drills that take place side by side: most of the time they wait.
const JOBS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_place_does_no_harm() -> Result<()> {
    let servers = servers::shared();
    let one = async |one| drill(Path::new(PROGRAM), servers, one).await.err();
    let found = iter(Drill::all(0)).map(one).buffer_unordered(JOBS);
    let broken: Vec<_> = found.filter_map(async |error| error).collect().await;
    let texts: Vec<String> = broken.iter().map(|error| format!("{error:#}")).collect();
    ensure!(texts.is_empty(), "{} drills failed:\n{}", texts.len(), texts.join("\n"));
    Ok(())
}
