//! The table that is printed.

/// Rows, and what each should have been.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<(String, String, bool)>,
}

impl Table {
    /// Times in milliseconds, with the bounds that hold for their median and for 99 of 100.
    pub(crate) fn times(&mut self, what: &str, mut times: Vec<u64>, p50_max: u64, p99_max: u64) {
        times.sort_unstable();
        let at = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).max(1) - 1;
            times.get(place).copied().unwrap_or(u64::MAX)
        };
        let (p50, p99) = (at(50), at(99));
        let (count, max) = (times.len(), times.last().copied().unwrap_or(u64::MAX));
        let met = count > 0 && p50 < p50_max && p99 < p99_max;
        let text = format!(
            "p50 {p50} ms, p99 {p99} ms, max {max} ms of {count} (below {p50_max} and {p99_max})"
        );
        self.row(what, text, met);
    }

    /// A count that should be at most so much.
    pub(crate) fn count(&mut self, what: &str, count: usize, of: usize, most: usize) {
        self.row(what, format!("{count} of {of} (at most {most})"), count <= most);
    }

    #[expect(clippy::print_stdout, reason = "the table goes to standard output")]
    fn row(&mut self, what: &str, text: String, met: bool) {
        println!("{what:<44} {text}{}", if met { "" } else { "  MISSED" });
        self.rows.push((what.to_owned(), text, met));
    }

    /// Prints the summary; whether every target was met.
    #[expect(clippy::print_stdout, reason = "the table goes to standard output")]
    pub(crate) fn print(&self) -> bool {
        let missed = self.rows.iter().filter(|(_, _, met)| !met).count();
        println!("recovery: {} measurements, {missed} targets missed", self.rows.len());
        missed == 0 && !self.rows.is_empty()
    }
}
