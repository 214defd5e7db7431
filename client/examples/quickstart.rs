//! The program in the README: a hundred squares and their sum, in one process or on a cluster.
#![expect(clippy::print_stdout, reason = "the answer goes to standard output")]
use bolthole::blocking::Client;
use bolthole::{Delayed, task};

#[task]
fn square(number: u64) -> u64 {
    number * number
}

#[task]
fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

fn main() -> bolthole::Result<()> {
    let client = match std::env::args().nth(1).as_deref() {
        Some("--worker") => return bolthole::worker::from_env()?.run(),
        Some("--cluster") => Client::from_env()?,
        _ => Client::embedded()?,
    };
    let squares: Vec<Delayed<u64>> = (1..=100).map(square::delayed).collect();
    let total = sum::delayed(squares).compute(&client)?;
    println!("{total}");
    Ok(())
}
