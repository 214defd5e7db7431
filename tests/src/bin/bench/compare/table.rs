//! The table that is made of what was measured, in Markdown, and what has to be said beneath it.

use std::path::Path;

use bolthole_tests::bench::driver::Outcome;
use serde_json::{Map, Value};

use super::plan::{Column, Unit};

/// What is in a cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// It was tried; in this size.
    Tried {
        size: String,
        outcome: Outcome,
    },
    NotInstalled,
    /// The system cannot say it, or the row is about something else.
    Lacks,
}

/// A system with one cell for each column.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) note: &'static str,
    pub(crate) cells: Vec<Cell>,
}

/// What holds for all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) runs: u32,
    pub(crate) limit_s: u32,
    pub(crate) cores: usize,
}

impl Cell {
    fn line(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Tried { outcome: Outcome::Measured(line), .. } => Some(line),
            _ => None,
        }
    }

    fn figure(&self, unit: Unit) -> Option<f64> {
        let name = match unit {
            Unit::TasksPerSecond => "tasks_per_s",
            Unit::MibPerSecond => "mib_per_s",
            Unit::Seconds => "median_s",
            Unit::Milliseconds => "p50_ms",
        };
        self.line()?.get(name)?.as_f64().filter(|figure| *figure > 0.0)
    }

    /// How many runs there were.
    fn runs(&self) -> Option<usize> {
        let line = self.line()?;
        ["seconds", "p50_runs"].iter().find_map(|name| line.get(*name)?.as_array().map(Vec::len))
    }

    fn text(&self, unit: Unit, best: Option<f64>, terms: Terms) -> String {
        match self {
            Self::NotInstalled => "not installed".to_owned(),
            Self::Lacks => "–".to_owned(),
            Self::Tried { outcome: Outcome::OverLimit, .. } => format!("> {} s", terms.limit_s),
            Self::Tried { .. } => match (self.figure(unit), best) {
                (None, _) => "fails".to_owned(),
                (Some(figure), None) => with_unit(figure, unit),
                (Some(figure), Some(best)) => {
                    let ratio = if unit.is_rate() { best / figure } else { figure / best };
                    format!("{} (×{})", with_unit(figure, unit), digits(ratio, 2))
                }
            },
        }
    }
}

impl Unit {
    fn is_rate(self) -> bool {
        matches!(self, Self::TasksPerSecond | Self::MibPerSecond)
    }
}

/// The table with its notes; the first row is what the others are compared with.
pub(crate) fn markdown(columns: &[Column], rows: &[Row], terms: Terms) -> String {
    let mut table: Vec<Vec<String>> = Vec::new();
    let heads = columns.iter().map(head);
    table.push(std::iter::once(String::new()).chain(heads).collect());
    table.push(vec!["---".to_owned(); columns.len() + 1]);
    for (place, row) in rows.iter().enumerate() {
        let cells = columns.iter().enumerate().map(|(at, column)| {
            let first = rows.first().and_then(|first| first.cells.get(at));
            let best = first.filter(|_| place > 0).and_then(|first| first.figure(column.unit));
            row.cells.get(at).map_or_else(String::new, |cell| cell.text(column.unit, best, terms))
        });
        table.push(std::iter::once(row.name.clone()).chain(cells).collect());
    }
    table.extend(schedules(columns, rows));
    let lines = table.iter().map(|cells| format!("| {} |", cells.join(" | ")));
    let lines: Vec<_> = lines.chain([String::new(), notes(columns, rows, terms)]).collect();
    lines.join("\n")
}

fn head(column: &Column) -> String {
    let Column { workload, ours, peers, unit } = column;
    let unit = match unit {
        Unit::TasksPerSecond => "tasks/s",
        Unit::MibPerSecond => "MiB/s",
        Unit::Seconds => "time",
        Unit::Milliseconds => "median",
    };
    let size = short(ours);
    let others = if ours == peers { String::new() } else { format!(" (others {peers})") };
    format!("{workload} {size}{others}, {unit}")
}

/// Without the folder of a file.
fn short(size: &str) -> String {
    let name = Path::new(size).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default().replace(".json.gz,", ",").replace(".json,", ",")
}

/// A row of what graphs with durations would take if nothing cost anything.
fn schedules(columns: &[Column], rows: &[Row]) -> Option<Vec<String>> {
    let ideal = |at: usize| rows.first()?.cells.get(at)?.line()?.get("schedule_s")?.as_f64();
    let ideals: Vec<Option<f64>> = (0..columns.len()).map(ideal).collect();
    ideals.iter().any(Option::is_some).then(|| {
        let text =
            |ideal: Option<f64>| ideal.map_or_else(String::new, |s| with_unit(s, Unit::Seconds));
        let cells = ideals.into_iter().map(text);
        std::iter::once("(critical path first, at no cost)".to_owned()).chain(cells).collect()
    })
}

fn notes(columns: &[Column], rows: &[Row], terms: Terms) -> String {
    let Terms { runs, limit_s, cores } = terms;
    let mut notes = vec![format!(
        "Medians of the runs after a warm-up ({runs} each), every system in its turn in one sitting on one \
         machine with {cores} cores: 2 worker processes of one slot each, of ten for `etlsleep` and \
         `trace`. In brackets: how many times as fast bolthole is. The others call Python functions, \
         which takes some microseconds each, so that on work that does nothing the figures compare \
         systems as their users meet them, not schedulers alone. –: it has no such thing."
    )];
    let mut fewer = Vec::new();
    let mut sizes = Vec::new();
    for row in rows {
        if !row.note.is_empty() {
            notes.push(format!("{}: {}.", row.name, row.note));
        }
        for (column, cell) in columns.iter().zip(&row.cells) {
            let Column { workload, ours, peers, .. } = column;
            if let Some(had) = cell.runs().filter(|had| *had < runs as usize) {
                fewer.push(format!("{} {workload} ({had})", row.name));
            }
            if let Cell::Tried { size, .. } = cell
                && size != ours
                && size != peers
            {
                sizes.push(format!("{} {workload} {size}", row.name));
            }
        }
    }
    if !sizes.is_empty() {
        notes.push(format!("Other sizes: {}.", sizes.join(", ")));
    }
    if !fewer.is_empty() {
        let fewer = fewer.join(", ");
        notes.push(format!("Fewer runs, as more would have taken over {limit_s} s: {fewer}."));
    }
    notes.join("\n")
}

fn with_unit(figure: f64, unit: Unit) -> String {
    let figure = digits(figure, 3);
    match unit {
        Unit::TasksPerSecond => format!("{figure}/s"),
        Unit::MibPerSecond => format!("{figure} MiB/s"),
        Unit::Seconds => format!("{figure} s"),
        Unit::Milliseconds => format!("{figure} ms"),
    }
}

/// To so many significant digits, with commas between thousands.
fn digits(number: f64, count: i32) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm: at most some hundreds")]
    let size = number.abs().max(1e-9).log10().floor() as i32 + 1;
    let step = 10_f64.powi(size - count);
    let rounded = (number / step).round() * step;
    let places = usize::try_from(count - size).unwrap_or_default();
    let text = format!("{rounded:.places$}");
    let (whole, fraction) = text.split_once('.').map_or((&*text, None), |(w, f)| (w, Some(f)));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests;
