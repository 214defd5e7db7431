//! One process of a cluster under test: `cluster worker`, or `cluster client NAME [HOLD]`, which
//! computes the ETL-shaped graph as the run of that name and prints `answer N`, or `cluster scale
//! NAME`, which does so with a task that `cluster_next` has in another form. The servers are those of
//! the environment. `cluster alone STARTS [open]` has no servers and lets children in, if open.

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use bolthole::{Client, task};
use bolthole_tests::{cluster, poison, workload};

/// The double: the next build knows other multiples.
#[task(name = "upgrade::scale")]
fn scale(value: u64) -> u64 {
    value * 2
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = cluster::member();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker"] => {
            let worker = bolthole::worker::from_env()?;
            let kept = || async { format!("made by {}", std::process::id()) };
            Ok(worker.state(kept).run_async().await?)
        }
        ["client", name] => client(name, "0").await,
        ["client", name, hold] => client(name, hold).await,
        ["scale", name] => scaled(name).await,
        ["alone", starts] => alone(starts).await,
        ["alone", starts, "open"] => {
            bolthole::worker::serve_as_child()?;
            alone(starts).await
        }
        _ => bail!("cluster worker | client NAME [HOLD] | scale NAME | alone STARTS [open]"),
    }
}

/// Computes in this process, and writes down that it was started. Prints how many processes an
/// isolated task was in that are not this one, or why it cannot be.
#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
async fn alone(starts: &str) -> Result<()> {
    writeln!(File::options().create(true).append(true).open(starts)?, "started")?;
    let client = Client::embedded().await?;
    match client.compute(poison::pid::delayed().isolated()).await {
        Ok(pid) => println!("answer {}", u8::from(pid != std::process::id())),
        Err(error) => println!("{error}"),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
async fn client(name: &str, hold: &str) -> Result<()> {
    let client = Client::from_env().await?;
    let run = client.run(name).header(workload::HOLD, hold);
    let best = run.compute(workload::etl()).await?;
    println!("answer {}", best.context("there is nothing to compare")?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
async fn scaled(name: &str) -> Result<()> {
    let client = Client::from_env().await?;
    let answer = client.run(name).compute(scale::delayed(workload::square::delayed(3))).await?;
    println!("answer {answer}");
    Ok(())
}
