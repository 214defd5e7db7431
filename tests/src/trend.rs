//! Whether a number grows: what a process takes, what a server keeps.

use std::fmt;
use std::fs;

/// Numbers in the order in which they were read, at equal distances.
#[derive(Debug, Clone, Default)]
pub struct Trend {
    numbers: Vec<f64>,
}

/// What became of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// On average.
    pub mean: f64,
    /// By how much it grew from the first to the last, along the straight line that fits best.
    pub by: f64,
}

impl Trend {
    /// Adds a number.
    #[expect(clippy::cast_precision_loss, reason = "sizes and counts here are far below 2^52")]
    pub fn push(&mut self, number: u64) {
        self.numbers.push(number as f64);
    }

    /// How it grew, leaving out the first `share` of it (0 to 1), in which caches fill.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list, and far below 2^52"
    )]
    pub fn growth(&self, share: f64) -> Growth {
        let first = ((self.numbers.len() as f64) * share) as usize;
        let numbers = self.numbers.get(first..).unwrap_or_default();
        let count = numbers.len() as f64;
        if numbers.len() < 2 {
            return Growth { mean: numbers.first().copied().unwrap_or(0.0), by: 0.0 };
        }
        let (middle, mean) = ((count - 1.0) / 2.0, numbers.iter().sum::<f64>() / count);
        let (mut together, mut alone) = (0.0, 0.0);
        for (place, number) in numbers.iter().enumerate() {
            let away = place as f64 - middle;
            together += away * (number - mean);
            alone += away * away;
        }
        Growth { mean, by: together / alone * (count - 1.0) }
    }
}

impl Growth {
    /// Whether it is within a tenth of the mean, or within `slack`, whichever is more.
    pub fn is_flat(&self, slack: f64) -> bool {
        self.by <= slack.max(self.mean / 10.0)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} on average, {:+.1} in all", self.mean, self.by)
    }
}

/// The resident memory of a process, in KiB; 0 when it is gone.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The open files and sockets of a process; 0 when it is gone.
pub fn open_files(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |files| files.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_told_from_what_only_moves() {
        let (mut grows, mut moves) = (Trend::default(), Trend::default());
        for place in 0..100 {
            grows.push(1_000 + 10 * place);
            moves.push(1_000 + place % 7);
        }
        let growth = grows.growth(0.0);
        assert!((growth.by - 990.0).abs() < 1e-6 && !growth.is_flat(100.0), "{growth}");
        assert!((grows.growth(0.5).by - 490.0).abs() < 1e-6);
        assert!(moves.growth(0.0).is_flat(0.0));
        assert!(Trend::default().growth(0.2).is_flat(0.0));
    }

    #[test]
    fn this_process_takes_something() {
        let pid = std::process::id();
        assert!(resident_kib(pid) > 100 && open_files(pid) >= 3);
        assert_eq!((resident_kib(0), open_files(0)), (0, 0));
    }
}
