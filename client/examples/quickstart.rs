//! The program in the README: a hundred squares and their sum, in one process or on a cluster.
#![expect(clippy::print_stdout, reason = "the answer goes to standard output")]
use bolthole::{Client, Delayed, task};

#[task]
fn square(number: u64) -> u64 {
    number * number
}

#[task]
fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

#[tokio::main]
async fn main() -> bolthole::Result<()> {
    let client = match std::env::args().nth(1).as_deref() {
        Some("--worker") => return bolthole::worker::from_env()?.run_async().await,
        Some("--cluster") => Client::from_env().await?,
        _ => Client::embedded().await?,
    };
    let squares: Vec<Delayed<u64>> = (1..=100).map(square::delayed).collect();
    let total = sum::delayed(squares).compute(&client).await?;
    println!("{total}");
    Ok(())
}
