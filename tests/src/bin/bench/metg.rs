//! The minimum effective task granularity: how short tasks may be before more than half of the time
//! is lost (Slaughter et al., Task Bench, SC 2020).

use std::str::FromStr;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use bolthole::{Client, Delayed};
use bolthole_tests::bench::draw::Draw;
use bolthole_tests::bench::tasks::{spin, total, work};
use serde::Serialize;

use crate::line::{self, float, rounded};
use crate::workload::neighbours;

/// Tasks in a row, for each slot.
const TASKS_PER_SLOT: u32 = 4;
/// The efficiency that is asked for.
const EFFICIENCY: f64 = 0.5;
/// The longest and the shortest tasks that are tried, in microseconds.
const LONGEST_US: f64 = 4_096.0;
const SHORTEST_US: f64 = 1.0;
/// How often each length is measured; the median counts.
const RUNS: usize = 3;

/// What a task needs of the row before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    Trivial,
    Stencil,
    Fft,
    Tree,
    Random,
}

impl FromStr for Pattern {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "trivial" => Self::Trivial,
            "stencil_1d" => Self::Stencil,
            "fft" => Self::Fft,
            "tree" => Self::Tree,
            "random_nearest" => Self::Random,
            _ => bail!("there is no pattern `{name}`; see --help"),
        })
    }
}

/// The answer, and the points between which it lies.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) workload: &'static str,
    pub(crate) pattern: String,
    pub(crate) cluster: bool,
    pub(crate) slots: u32,
    pub(crate) width: u32,
    pub(crate) steps: u32,
    /// The length of a task at which half of the time is work, in microseconds.
    pub(crate) metg_us: f64,
    /// Lengths in microseconds and the efficiency at each.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Halves the length of the tasks until less than half of the time is work.
pub(crate) async fn search(
    client: &Client,
    pattern: Pattern,
    steps: u32,
    slots: u32,
) -> Result<Line> {
    let width = slots * TASKS_PER_SLOT;
    let rounds_per_us = calibrate();
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut length_us = LONGEST_US;
    // Work in a row that makes a run of about a second whatever the length.
    measure(client, pattern, width, steps.min(100), 0).await?;
    while length_us >= SHORTEST_US && points.last().is_none_or(|(_, share)| *share >= EFFICIENCY) {
        let steps = fitting(steps, length_us, width, slots);
        let rounds = whole(length_us * rounds_per_us);
        let mut times = Vec::new();
        for _ in 0..RUNS {
            times.push(measure(client, pattern, width, steps, rounds).await?);
        }
        let ideal_s = float(u64::from(width) * u64::from(steps)) * length_us / 1e6;
        let efficiency = ideal_s / f64::from(slots) / line::median(&times);
        points.push((length_us, rounded(efficiency)));
        length_us /= 2.0;
    }
    let pattern = format!("{pattern:?}").to_lowercase();
    let metg_us = rounded(between(&points));
    let workload = "metg";
    Ok(Line { workload, pattern, cluster: true, slots, width, steps, metg_us, points })
}

/// As many rows as take two seconds, `steps` at most and 20 at least.
fn fitting(steps: u32, length_us: f64, width: u32, slots: u32) -> u32 {
    let row_us = length_us * f64::from(width) / f64::from(slots);
    let rows = u32::try_from(whole(2e6 / row_us)).unwrap_or(u32::MAX);
    rows.min(steps).max(20)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and far below 2^52"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

/// Where the line through the last two points meets the efficiency, the lengths on a logarithmic
/// scale.
fn between(points: &[(f64, f64)]) -> f64 {
    match points {
        [.., (long, above), (short, below)] if above > below && *below < EFFICIENCY => {
            let share = (EFFICIENCY - below) / (above - below);
            short * (long / short).powf(share.clamp(0.0, 1.0))
        }
        [.., (last, _)] => *last,
        [] => f64::NAN,
    }
}

/// How many rounds of work this machine does in a microsecond, at best.
fn calibrate() -> f64 {
    const ROUNDS: u64 = 2_000_000;
    let time = |()| {
        let began = Instant::now();
        work(ROUNDS);
        began.elapsed().as_secs_f64() * 1e6
    };
    let best = std::iter::repeat_n((), 10).map(time).fold(f64::INFINITY, f64::min);
    float(ROUNDS) / best
}

/// Seconds that one graph takes.
async fn measure(
    client: &Client,
    pattern: Pattern,
    width: u32,
    steps: u32,
    rounds: u64,
) -> Result<f64> {
    let (call, expected) = graph(pattern, width, steps, rounds);
    let began = Instant::now();
    let result = client.compute(call).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(result == expected, "{pattern:?}: expected {expected}, got {result}");
    Ok(seconds)
}

fn graph(pattern: Pattern, width: u32, steps: u32, rounds: u64) -> (Delayed<u64>, u64) {
    let mut draw = Draw::new(42);
    let (mut calls, mut values) = (Vec::<Delayed<u64>>::new(), Vec::<u64>::new());
    let mut all = Vec::new();
    for step in 0..steps {
        let (mut next_calls, mut next_values) = (Vec::new(), Vec::new());
        for place in 0..width {
            let inputs = inputs(pattern, step, place, width, &mut draw);
            let sum = inputs.iter().fold(1, |sum: u64, input| sum.wrapping_add(values[*input]));
            let taken: Vec<_> = inputs.iter().map(|input| &calls[*input]).collect();
            next_calls.push(spin::delayed(rounds, taken));
            next_values.push(sum);
        }
        if pattern == Pattern::Trivial {
            // Nobody takes any of them.
            all.append(&mut calls);
        }
        (calls, values) = (next_calls, next_values);
    }
    all.append(&mut calls);
    let expected = if pattern == Pattern::Trivial {
        all.len() as u64
    } else {
        values.into_iter().fold(0, u64::wrapping_add)
    };
    (total::delayed(all), expected)
}

/// The places of the row before that a task needs; none in the first row.
fn inputs(pattern: Pattern, step: u32, place: u32, width: u32, draw: &mut Draw) -> Vec<usize> {
    let (at, count) = (place as usize, width as usize);
    if step == 0 {
        return Vec::new();
    }
    match pattern {
        Pattern::Trivial => Vec::new(),
        Pattern::Stencil => neighbours(at, count).collect(),
        Pattern::Fft => {
            // The butterfly whose distance doubles from row to row.
            let levels = width.next_power_of_two().trailing_zeros().max(1);
            let distance = 1 << ((step - 1) % levels);
            let near = [at.checked_sub(distance), Some(at), at.checked_add(distance)];
            near.into_iter().flatten().filter(|input| *input < count).collect()
        }
        Pattern::Tree => vec![at / 2],
        Pattern::Random => {
            // Each of the five nearest with one chance in two, itself always.
            let nearest = at.saturating_sub(2)..=(at + 2).min(count - 1);
            nearest.filter(|input| *input == at || draw.below(2) == 0).collect()
        }
    }
}
