//! Random graphs on simulated clusters. The last line is the summary; the status is 1 when something
//! was violated, or when of 200 seeds or more none had a fault of each kind, or one of the events that
//! faults are to bring about.

use std::process::ExitCode;

use bolthole_tests::simulation::{Case, Summary, play_all};
use clap::Parser;

/// Plays random graphs with random faults in virtual time.
#[derive(Debug, Parser)]
struct Flags {
    /// How many seeds to play
    #[arg(long, value_name = "N", default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    from: u64,
    /// Print every step of each
    #[arg(long)]
    trace: bool,
    /// Play each twice, and compare
    #[arg(long)]
    twice: bool,
}

#[expect(clippy::print_stdout, reason = "the answer goes to standard output")]
fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let asked = Flags::parse();
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
    let good = summary.violations == 0 && never.is_empty();
    ExitCode::from(u8::from(!good))
}
