//! Random graphs on simulated clusters: `simulate [--seeds N] [--from S] [--trace] [--twice]`. Tries N
//! seeds from S on; with `--trace` prints every step of each, with `--twice` plays each twice and
//! compares. The last line is the summary; the status is 1 when something was violated, or when of 200
//! seeds or more none had a fault of each kind, or one of the events that faults are to bring about.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bolthole_tests::simulation::{Case, Summary, play_all};

/// What is asked for.
struct Asked {
    seeds: u64,
    from: u64,
    trace: bool,
    twice: bool,
}

impl Asked {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut asked = Self { seeds: 100, from: 0, trace: false, twice: false };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut number =
                || args.next().context("a number is missing")?.parse().context(arg.clone());
            match arg.as_str() {
                "--seeds" => asked.seeds = number()?,
                "--from" => asked.from = number()?,
                "--trace" => asked.trace = true,
                "--twice" => asked.twice = true,
                _ => bail!("simulate [--seeds N] [--from S] [--trace] [--twice]"),
            }
        }
        Ok(asked)
    }
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
fn main() -> Result<ExitCode> {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let asked = Asked::parse(std::env::args().skip(1))?;
    let mut summary = Summary::default();
    let play = |seed| {
        let mut case = Case::play(seed, asked.trace);
        if asked.twice {
            let again = Case::play(seed, false).report.trace;
            if again != case.report.trace {
                case.findings.push(format!("the second time its trace is {again:016x}"));
            }
        }
        case
    };
    play_all(asked.from..asked.from + asked.seeds, play, |case| {
        summary.add(&case);
        case.report.history.iter().for_each(|step| println!("{step}"));
        if asked.trace || !case.findings.is_empty() {
            println!("{case}");
        }
    });
    let never = summary.never();
    if !never.is_empty() {
        println!("never happened, so it was not tested: {}", never.join(", "));
    }
    println!("{summary}");
    Ok(if summary.violations == 0 && never.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
