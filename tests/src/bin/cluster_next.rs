//! The program `cluster` as its next build would be: a task has another signature, and one is new.
//! `cluster_next worker`, or `cluster_next client NAME`, which computes a graph with both and prints
//! `answer N`.

use anyhow::{Result, bail};
use bolthole::{Client, task};
use bolthole_tests::{cluster, workload};

/// A multiple: the build before knows the double only.
#[task(name = "upgrade::scale")]
fn scale(value: u64, factor: u64) -> u64 {
    value * factor
}

/// One more. The build before has no such task.
#[task(name = "upgrade::next")]
fn next(value: u64) -> u64 {
    value + 1
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = cluster::member();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker"] => Ok(bolthole::worker::from_env()?.run_async().await?),
        ["client", name] => client(name).await,
        _ => bail!("cluster_next worker | cluster_next client NAME"),
    }
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
async fn client(name: &str) -> Result<()> {
    let client = Client::from_env().await?;
    let scaled = scale::delayed(workload::square::delayed(3), 5);
    let answer = client.run(name).compute(next::delayed(scaled)).await?;
    println!("answer {answer}");
    Ok(())
}
