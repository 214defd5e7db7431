//! A custom ETL: load a hundred files and a database, process each file against the database, roll
//! a window of three over the days, compare random pairs of windows, keep the best.
//!
//! No collection of `map`, `group_by` and `join` says this well; an ordinary loop does.
//!
//! ```text
//! cargo run --release --example etl
//! ```
//!
//! With `--worker` the same program is a worker of a cluster, and with `--cluster` its client.
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
use bolthole::blocking::Client;
use bolthole::worker::WorkerBuilder;
use bolthole::{Ctx, task};
use clap::Parser as _;

use flags::{Flags, hold};
use flights::Day;
use reference_db::Reference;
use statistics::{Comparison, ExcessDelays, Window};

#[task]
fn load(path: &Path, ctx: &Ctx) -> Result<Day> {
    hold(ctx);
    Day::read(path)
}

#[task]
fn load_reference(database: &Path, ctx: &Ctx) -> Result<Reference> {
    hold(ctx);
    Reference::read(database)
}

#[task]
fn process(day: &Day, reference: &Reference, ctx: &Ctx) -> ExcessDelays {
    hold(ctx);
    ExcessDelays::of(day, reference)
}

#[task]
fn roll(a: &ExcessDelays, b: &ExcessDelays, c: &ExcessDelays, ctx: &Ctx) -> Window {
    hold(ctx);
    Window::over(a, b, c)
}

#[task]
fn compare(x: &Window, y: &Window, ctx: &Ctx) -> Comparison {
    hold(ctx);
    Comparison::of(x, y)
}

#[task]
fn reduction(comparisons: &[Comparison], ctx: &Ctx) -> Option<Comparison> {
    hold(ctx);
    Comparison::best(comparisons).cloned()
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
fn main() -> Result<()> {
    let flags = Flags::parse();
    if flags.worker {
        flags::log();
        let worker = bolthole::worker::from_env()?;
        return Ok(flags.slots.into_iter().fold(worker, WorkerBuilder::slots).run()?);
    }
    let folder = std::path::absolute(&flags.data)?;
    let files = flights::files(&folder, flags.days)?;
    let database = reference_db::build_if_missing(&folder, &std::env::temp_dir())?;

    let reference = load_reference::delayed(&database);
    let days: Vec<_> = files.iter().map(load::delayed).collect();
    let processed: Vec<_> = days.iter().map(|day| process::delayed(day, &reference)).collect();
    let rolled: Vec<_> = processed.windows(3).map(|w| roll::delayed(&w[0], &w[1], &w[2])).collect();
    let compared: Vec<_> = pairs::draw(rolled.len(), flags.pairs, flags.seed)
        .into_iter()
        .map(|(i, j)| compare::delayed(&rolled[i], &rolled[j]))
        .collect();
    let best = reduction::delayed(compared);
    best.visualize(&flags.picture)?;

    let client = if flags.cluster { Client::from_env()? } else { Client::embedded()? };
    let run = match flags.run {
        Some(name) => client.run(name),
        None => client.unnamed(),
    };
    let best = run.header(flags::HOLD, flags.hold.to_string()).compute(best)?;
    println!("{}", best.context("no pair of windows can be compared")?);
    Ok(())
}
