//! The workloads: how each is called, what it computes, what is right.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bolthole::{Client, Delayed};
use bolthole_tests::bench::draw::Draw;
use bolthole_tests::bench::etl::Etl;
use bolthole_tests::bench::schedule::{self, Timed};
use bolthole_tests::bench::tasks::{
    add, concat, ends, inc, length, mix, noop, produce, spin, split, total,
};
use bolthole_tests::bench::trace::Trace;
use tokio::task::JoinSet;

use crate::metg::Pattern;

const MIB: usize = 1 << 20;
/// How far back a task of `random` looks for its inputs, and how many it has at most.
const RANDOM_WINDOW: u32 = 1_000;
const RANDOM_INPUTS: u32 = 3;

pub(crate) const HELP: &str = "\
Workloads and their sizes:
  noop N              N independent tasks, gathered by the client
  unbatched N         the same with a message and a commit for each task
  chain N             N tasks, each of which needs the one before
  tree LEAVES         binary reduction; LEAVES is a power of two
  etl N,M             the ETL graph of N files and M pairs, without its work
  etlsleep N,M        the same with its durations, on 20 slots
  shuffle P           all to all: P producers of P MiB, P * P splits of 1 MiB, P concatenations
  bigfan MIB,K        one large result, K consumers of all of it
  membound LEAVES,MIB binary reduction of results of MIB MiB each to one of that size; with
                      --env BOLTHOLE_MEMORY=BYTES under a cap for each worker
  stencil W,T         T rows of W tasks, each of which needs three neighbours of the row before
  random N            N tasks with up to 3 inputs from the last 1,000
  latency COUNT       one task to an idle system and back, COUNT times
  trace FILE,T,B      a recorded workflow, its times scaled by T and its sizes by B, on 20 slots
  metg PATTERN[,T]    the shortest tasks at 50 % efficiency; PATTERN is trivial, stencil_1d, fft,
                      tree or random_nearest, over T rows (1000)
  fan N               one result that N tasks use, whose results one task uses
  runs R,N            R runs of N tasks each, all at once
  fleet W,N[,MS]      W workers in this process: what they cost while idle, then N independent tasks,
                      each of which waits MS milliseconds (0)
  fair L,S[,MS]       runs of S tasks, one after the other, while one of L tasks is running; each task
                      waits MS milliseconds (0)
  million [W,T]       a stencil of W * T tasks (1000,1000), submitted one by one";

/// What to run.
pub(crate) enum Workload {
    Noop { tasks: u64 },
    Chain { tasks: u64 },
    Tree { leaves: u64 },
    Etl { etl: Etl, sleeps: bool },
    Shuffle { parts: usize },
    Bigfan { mib: usize, consumers: usize },
    Stencil { width: usize, steps: usize },
    Random { tasks: u64 },
    Latency { count: u32 },
    Trace { trace: Trace },
    Metg { pattern: Pattern, steps: u32 },
    Million { width: usize, steps: usize },
    Fair { large: u32, small: u32, ms: f64 },
    Fan { tasks: u64 },
    Membound { leaves: u64, mib: usize },
    Runs { runs: u64, tasks: u64 },
    Fleet { workers: usize, tasks: u32, ms: f64 },
}

/// How long a workload takes where nothing costs anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ideal {
    pub(crate) schedule: Duration,
    pub(crate) bound: Duration,
}

impl Workload {
    pub(crate) fn parse(name: &str, size: &str) -> Result<Self> {
        let parts: Vec<&str> = size.split(',').filter(|part| !part.is_empty()).collect();
        Self::read(name, &parts)
            .with_context(|| format!("the size `{size}` does not suit `{name}`; see --help"))
    }

    fn read(name: &str, parts: &[&str]) -> Result<Self> {
        Ok(match (name, parts) {
            ("noop" | "unbatched", [n]) => Self::Noop { tasks: number(n)? },
            ("chain", [n]) => Self::Chain { tasks: number(n)? },
            ("tree", [n]) => {
                let leaves: u64 = number(n)?;
                ensure!(leaves.is_power_of_two(), "the leaves of a tree are a power of two");
                Self::Tree { leaves }
            }
            ("membound", [n, mib]) => {
                let leaves: u64 = number(n)?;
                ensure!(leaves.is_power_of_two(), "the leaves of a tree are a power of two");
                Self::Membound { leaves, mib: number(mib)? }
            }
            ("etl" | "etlsleep", [n, m]) => {
                let (files, pairs) = (number(n)?, number(m)?);
                ensure!(files >= 4, "the ETL graph needs four files to have pairs of windows");
                let sleeps = name == "etlsleep";
                Self::Etl { etl: Etl::new(files, pairs, sleeps), sleeps }
            }
            ("shuffle", [n]) => Self::Shuffle { parts: number(n)? },
            ("bigfan", [mib, k]) => Self::Bigfan { mib: number(mib)?, consumers: number(k)? },
            ("stencil", [w, t]) => Self::Stencil { width: number(w)?, steps: number(t)? },
            ("random", [n]) => Self::Random { tasks: number(n)? },
            ("fan", [n]) => Self::Fan { tasks: number(n)? },
            ("runs", [runs, n]) => Self::Runs { runs: number(runs)?, tasks: number(n)? },
            ("fleet", [w, n, rest @ ..]) if rest.len() < 2 => {
                let ms = rest.first().map_or(Ok(0.0), |ms| number(ms))?;
                Self::Fleet { workers: number(w)?, tasks: number(n)?, ms }
            }
            ("fair", [large, small, rest @ ..]) if rest.len() < 2 => Self::Fair {
                large: number(large)?,
                small: number(small)?,
                ms: rest.first().map_or(Ok(0.0), |ms| number(ms))?,
            },
            ("latency", [n]) => Self::Latency { count: number(n)? },
            ("trace", [file, time, bytes]) => {
                let (time, bytes) = (number(time)?, number(bytes)?);
                Self::Trace { trace: Trace::read(&PathBuf::from(file), time, bytes)? }
            }
            ("metg", [pattern]) => Self::Metg { pattern: pattern.parse()?, steps: 1000 },
            ("metg", [pattern, t]) => Self::Metg { pattern: pattern.parse()?, steps: number(t)? },
            ("million", []) => Self::Million { width: 1000, steps: 1000 },
            ("million", [w, t]) => Self::Million { width: number(w)?, steps: number(t)? },
            _ => bail!("no such workload, or another number of parts"),
        })
    }

    /// How many tasks one run has.
    pub(crate) fn tasks(&self) -> u64 {
        let count = |tasks: usize| tasks as u64;
        match self {
            Self::Noop { tasks } | Self::Chain { tasks } | Self::Random { tasks } => *tasks,
            Self::Tree { leaves } => 2 * leaves - 1,
            Self::Membound { leaves, .. } => 2 * leaves,
            Self::Etl { etl, .. } => count(etl.tasks()),
            Self::Shuffle { parts } => count(parts + parts * parts + parts + 1),
            Self::Bigfan { consumers, .. } => count(consumers + 2),
            Self::Stencil { width, steps } | Self::Million { width, steps } => {
                count(width * steps + 1)
            }
            Self::Trace { trace } => count(trace.tasks()),
            Self::Fan { tasks } => tasks + 2,
            Self::Runs { runs, tasks } => runs * tasks,
            Self::Latency { .. } | Self::Metg { .. } | Self::Fair { .. } | Self::Fleet { .. } => 0,
        }
    }

    /// How much goes from tasks to others, for workloads that are about that.
    pub(crate) fn mib(&self) -> Option<u64> {
        match self {
            Self::Shuffle { parts } => Some((parts * parts) as u64),
            Self::Bigfan { mib, consumers } => Some((mib * consumers) as u64),
            _ => None,
        }
    }

    /// What it would take on ideal slots, for workloads whose tasks have durations.
    pub(crate) fn ideal(&self, slots: u32) -> Option<Ideal> {
        let ideal = |tasks: &[Timed]| Ideal {
            schedule: schedule::critical_path_first(tasks, slots),
            bound: schedule::bound(tasks, slots),
        };
        match self {
            Self::Etl { etl, sleeps: true } => Some(ideal(&etl.timed())),
            Self::Trace { trace } => Some(ideal(&trace.timed())),
            _ => None,
        }
    }

    /// Runs it once; whether the result is right.
    pub(crate) async fn run(&self, client: &Client) -> Result<bool> {
        Ok(match self {
            Self::Noop { tasks } => {
                let calls: Vec<_> = (0..*tasks).map(noop::delayed).collect();
                client.compute(calls).await?.into_iter().sum::<u64>() == tasks / 2
            }
            Self::Chain { tasks } => {
                let first = inc::delayed(0_u64);
                let last = (1..*tasks).fold(first, |before, _| inc::delayed(before));
                client.compute(last).await? == *tasks
            }
            Self::Tree { leaves } => client.compute(tree(*leaves)).await? == leaves / 2,
            Self::Membound { leaves, mib } => {
                let mut row: Vec<_> =
                    (0..*leaves).map(|_| produce::delayed(1, mib * MIB)).collect();
                while row.len() > 1 {
                    row = row.chunks(2).map(|two| mix::delayed(&two[0], &two[1])).collect();
                }
                client.compute(ends::delayed(row)).await? == leaves % 256
            }
            Self::Etl { etl, .. } => client.compute(etl.calls()).await? == etl.expected(),
            Self::Shuffle { parts } => {
                client.compute(shuffle(*parts)).await? == (parts * parts * MIB) as u64
            }
            Self::Bigfan { mib, consumers } => {
                let whole = produce::delayed(1, mib * MIB);
                let lengths: Vec<_> = (0..*consumers).map(|_| length::delayed(&whole)).collect();
                client.compute(total::delayed(lengths)).await? == (consumers * mib * MIB) as u64
            }
            Self::Stencil { width, steps } => {
                client.compute(stencil(*width, *steps)).await? == stencil_expected(*width, *steps)
            }
            Self::Random { tasks } => {
                let (call, expected) = random(*tasks);
                client.compute(call).await? == expected
            }
            Self::Fan { tasks } => {
                let one = noop::delayed(1);
                let wide: Vec<_> = (0..*tasks).map(|number| add::delayed(&one, number)).collect();
                client.compute(total::delayed(wide)).await? == tasks * (tasks + 1) / 2
            }
            Self::Runs { runs, tasks } => all_at_once(client, *runs, *tasks).await?,
            Self::Trace { trace } => client.compute(trace.calls()).await? == trace.expected(),
            Self::Latency { .. }
            | Self::Metg { .. }
            | Self::Million { .. }
            | Self::Fair { .. }
            | Self::Fleet { .. } => {
                bail!("this workload is measured in a way of its own")
            }
        })
    }
}

fn number<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("`{text}` is not a number"))
}

/// Many runs of independent tasks, each of them awaited by a task of its own.
async fn all_at_once(client: &Client, runs: u64, tasks: u64) -> Result<bool> {
    let mut all = JoinSet::new();
    for _ in 0..runs {
        let calls: Vec<_> = (0..tasks).map(noop::delayed).collect();
        let client = client.clone();
        all.spawn(async move { client.compute(calls).await });
    }
    let mut sum = 0;
    while let Some(run) = all.join_next().await {
        sum += run??.into_iter().sum::<u64>();
    }
    Ok(sum == runs * (tasks / 2))
}

fn tree(leaves: u64) -> Delayed<u64> {
    let mut row: Vec<_> = (0..leaves).map(noop::delayed).collect();
    while row.len() > 1 {
        row = row.chunks(2).map(|two| add::delayed(&two[0], &two[1])).collect();
    }
    row.swap_remove(0)
}

fn shuffle(parts: usize) -> Delayed<u64> {
    let whole: Vec<_> = (0..parts).map(|_| produce::delayed(1, parts * MIB)).collect();
    let pieces: Vec<Vec<_>> = whole
        .iter()
        .map(|whole| (0..parts).map(|number| split::delayed(whole, number, MIB)).collect())
        .collect();
    let joined = (0..parts).map(|number| {
        concat::delayed(pieces.iter().map(|pieces| &pieces[number]).collect::<Vec<_>>())
    });
    total::delayed(joined.collect::<Vec<_>>())
}

/// The places of the row before that a place needs: itself and its neighbours.
pub(crate) fn neighbours(place: usize, width: usize) -> std::ops::RangeInclusive<usize> {
    place.saturating_sub(1)..=(place + 1).min(width.saturating_sub(1))
}

fn stencil(width: usize, steps: usize) -> Delayed<u64> {
    let mut row: Vec<Delayed<u64>> = Vec::new();
    for _ in 0..steps {
        let inputs = |place| -> Vec<_> {
            let before = (!row.is_empty()).then(|| neighbours(place, width));
            before.into_iter().flatten().map(|input| &row[input]).collect()
        };
        row = (0..width).map(|place| spin::delayed(0, inputs(place))).collect();
    }
    total::delayed(row)
}

/// One for each task and the sum of its inputs, added up over the last row.
pub(crate) fn stencil_expected(width: usize, steps: usize) -> u64 {
    let mut row: Vec<u64> = Vec::new();
    for _ in 0..steps {
        let sum = |place| {
            let before = (!row.is_empty()).then(|| neighbours(place, width));
            let inputs = before.into_iter().flatten().map(|input| row[input]);
            inputs.fold(1, u64::wrapping_add)
        };
        row = (0..width).map(sum).collect();
    }
    row.into_iter().fold(0, u64::wrapping_add)
}

/// Up to three inputs each from the last thousand; what nobody takes is added up, so that every
/// task is needed.
fn random(tasks: u64) -> (Delayed<u64>, u64) {
    let mut draw = Draw::new(42);
    let (mut calls, mut values) = (Vec::<Delayed<u64>>::new(), Vec::<u64>::new());
    let mut taken = Vec::new();
    for _ in 0..tasks {
        let mut inputs = Vec::new();
        let window = values.len().min(RANDOM_WINDOW as usize);
        for _ in 0..if window == 0 { 0 } else { draw.below(RANDOM_INPUTS + 1) } {
            let back = draw.below(u32::try_from(window).unwrap_or(RANDOM_WINDOW)) as usize;
            let input = values.len() - 1 - back;
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        values.push(inputs.iter().fold(1, |sum, input| sum.wrapping_add(values[*input])));
        calls.push(spin::delayed(0, inputs.iter().map(|input| &calls[*input]).collect::<Vec<_>>()));
        taken.push(false);
        for input in inputs {
            taken[input] = true;
        }
    }
    let ends = || taken.iter().enumerate().filter(|(_, taken)| !**taken).map(|(place, _)| place);
    let expected = ends().fold(0, |sum: u64, place| sum.wrapping_add(values[place]));
    (total::delayed(ends().map(|place| &calls[place]).collect::<Vec<_>>()), expected)
}
