//! A custom ETL: load a hundred files and a database, process each file against the database, roll
//! a window of three over the days, compare random pairs of windows, keep the best.
//!
//! No collection of `map`, `group_by` and `join` says this well; an ordinary loop does.
//!
//! ```text
//! cargo run --release --example etl
//! ```
//!
//! This file is the whole program; what the tasks compute is in the modules beside it.

#[cfg(test)]
mod answer;
mod flags;
mod flights;
mod pairs;
mod reference_db;
mod statistics;
mod tables;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use flags::Flags;
use flights::Day;
use reference_db::Reference;
use statistics::{Comparison, ExcessDelays, Window};

fn load(path: &Path) -> Result<Day> {
    Day::read(path)
}

fn load_reference(database: &Path) -> Result<Reference> {
    Reference::read(database)
}

fn process(day: &Day, reference: &Reference) -> ExcessDelays {
    ExcessDelays::of(day, reference)
}

fn roll(a: &ExcessDelays, b: &ExcessDelays, c: &ExcessDelays) -> Window {
    Window::over(a, b, c)
}

fn compare(x: &Window, y: &Window) -> Comparison {
    Comparison::of(x, y)
}

fn reduction(comparisons: &[Comparison]) -> Option<Comparison> {
    Comparison::best(comparisons).cloned()
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
fn main() -> Result<()> {
    let flags = Flags::parse();
    let data = std::path::absolute(&flags.data)?;
    let files = flights::files(&data, flags.days)?;
    let database = reference_db::build_if_missing(&data, &std::env::temp_dir())?;

    let reference = load_reference(&database)?;
    let days = files.iter().map(|file| load(file)).collect::<Result<Vec<_>>>()?;
    let processed: Vec<_> = days.iter().map(|day| process(day, &reference)).collect();
    let rolled: Vec<_> = processed.windows(3).map(|w| roll(&w[0], &w[1], &w[2])).collect();
    let compared: Vec<_> = pairs::draw(rolled.len(), flags.pairs, flags.seed)
        .into_iter()
        .map(|(i, j)| compare(&rolled[i], &rolled[j]))
        .collect();
    let best = reduction(&compared).context("no pair of windows can be compared")?;

    println!("{best}");
    Ok(())
}
