//! Delays by destination. All sums run in a fixed order (rows as in the file, days by date,
//! destinations by their bytes): floating-point addition depends on order, and the answer must not
//! depend on where or when a task ran.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::flights::Day;
use crate::reference_db::Reference;

/// The year the flights are of.
const YEAR: i32 = 2013;
/// The class of a plane whose year of manufacture is not known. The others are 0 to 5.
const AGE_UNKNOWN: i32 = 6;
/// A destination with fewer flights in a window has no mean.
const FLIGHTS_MIN: u32 = 5;
/// Windows with fewer destinations in common are not compared.
const DESTINATIONS_MIN: usize = 10;

/// How many values, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// How many values were added.
    pub(crate) count: u32,
    /// Their sum.
    pub(crate) sum: f64,
}

impl Tally {
    fn add(&mut self, value: f64) {
        self.merge(Self { count: 1, sum: value });
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    fn mean(self) -> f64 {
        self.sum / f64::from(self.count)
    }
}

/// One day's delays, in minutes beyond what planes of that age had on that day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExcessDelays {
    /// The day.
    pub(crate) date: String,
    /// By destination, those of the airports table alone.
    pub(crate) by_destination: BTreeMap<String, Tally>,
}

impl ExcessDelays {
    /// The day's delays, each less the mean of all the day's planes of its age class.
    pub(crate) fn of(day: &Day, reference: &Reference) -> Self {
        let age_of = |tailnum: &str| age_class(reference.years.get(tailnum).copied());
        let mut by_age: BTreeMap<i32, Tally> = BTreeMap::new();
        for flight in &day.flights {
            by_age.entry(age_of(&flight.tailnum)).or_default().add(flight.arr_delay.into());
        }
        let mut by_destination: BTreeMap<String, Tally> = BTreeMap::new();
        for flight in &day.flights {
            if reference.airports.contains(&flight.dest) {
                let baseline = by_age[&age_of(&flight.tailnum)].mean();
                let excess = f64::from(flight.arr_delay) - baseline;
                by_destination.entry(flight.dest.clone()).or_default().add(excess);
            }
        }
        Self { date: day.date.clone(), by_destination }
    }
}

/// Mean delays of consecutive days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// First and last day: `2013-01-01..2013-01-03`.
    pub(crate) dates: String,
    /// By destination, those with enough flights.
    pub(crate) means: BTreeMap<String, f64>,
}

impl Window {
    /// The mean delays of three days.
    pub(crate) fn over(a: &ExcessDelays, b: &ExcessDelays, c: &ExcessDelays) -> Self {
        let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
        for day in [a, b, c] {
            for (destination, tally) in &day.by_destination {
                tallies.entry(destination).or_default().merge(*tally);
            }
        }
        let means = (tallies.into_iter())
            .filter(|(_, tally)| tally.count >= FLIGHTS_MIN)
            .map(|(destination, tally)| (destination.to_owned(), tally.mean()))
            .collect();
        Self { dates: format!("{}..{}", a.date, c.date), means }
    }
}

/// How alike two windows are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// The dates of the one.
    pub(crate) x: String,
    /// The dates of the other.
    pub(crate) y: String,
    /// From -1 to 1; `None` where it has no meaning.
    pub(crate) correlation: Option<f64>,
}

impl Comparison {
    /// Compares the means of the destinations in both windows.
    pub(crate) fn of(x: &Window, y: &Window) -> Self {
        let (xs, ys): (Vec<f64>, Vec<f64>) = (x.means.iter())
            .filter_map(|(destination, mean)| Some((*mean, *y.means.get(destination)?)))
            .unzip();
        let enough = xs.len() >= DESTINATIONS_MIN;
        let correlation = if enough { correlation(&xs, &ys) } else { None };
        Self { x: x.dates.clone(), y: y.dates.clone(), correlation }
    }

    /// The comparison of the greatest correlation, the first of equals.
    pub(crate) fn best(comparisons: &[Self]) -> Option<&Self> {
        let mut best: Option<&Self> = None;
        for comparison in comparisons {
            // `None` is less than any number.
            if comparison.correlation > best.and_then(|best| best.correlation) {
                best = Some(comparison);
            }
        }
        best
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}: ", self.x, self.y)?;
        match self.correlation {
            Some(correlation) => write!(f, "correlation {correlation:.6}"),
            None => write!(f, "no correlation"),
        }
    }
}

/// The age of a plane in steps of five years, from the year it was made.
fn age_class(year: Option<i32>) -> i32 {
    year.map_or(AGE_UNKNOWN, |year| ((YEAR - year) / 5).clamp(0, 5))
}

/// Pearson's correlation of two lists of one length; `None` when a variance is zero.
fn correlation(xs: &[f64], ys: &[f64]) -> Option<f64> {
    if !varies(xs) || !varies(ys) {
        return None;
    }
    let (mean_x, mean_y) = (mean(xs), mean(ys));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in xs.iter().zip(ys) {
        xx += (x - mean_x) * (x - mean_x);
        yy += (y - mean_y) * (y - mean_y);
        xy += (x - mean_x) * (y - mean_y);
    }
    let scale = f64::sqrt(xx) * f64::sqrt(yy);
    (scale > 0.0).then(|| xy / scale)
}

/// Whether any value differs from the first. Asked of the values themselves, because the computed
/// variance of equal values need not be zero: their mean is rounded.
#[expect(clippy::float_cmp, reason = "the question is whether they are the very same")]
fn varies(values: &[f64]) -> bool {
    values.iter().any(|value| *value != values[0])
}

fn mean(values: &[f64]) -> f64 {
    let mut tally = Tally::default();
    for value in values {
        tally.add(*value);
    }
    tally.mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flights::Flight;

    fn day(date: &str, flights: &[(&str, &str, i32)]) -> Day {
        let flight = |&(dest, tailnum, arr_delay): &(&str, &str, i32)| Flight {
            dest: dest.to_owned(),
            tailnum: tailnum.to_owned(),
            arr_delay,
        };
        Day { date: date.to_owned(), flights: flights.iter().map(flight).collect() }
    }

    fn window(dates: &str, means: impl IntoIterator<Item = f64>) -> Window {
        let named = means.into_iter().enumerate();
        let means = named.map(|(number, mean)| (format!("D{number:02}"), mean)).collect();
        Window { dates: dates.to_owned(), means }
    }

    fn comparison(x: &str, correlation: Option<f64>) -> Comparison {
        Comparison { x: x.to_owned(), y: "other".to_owned(), correlation }
    }

    #[test]
    fn ages_are_classes_of_five_years() {
        let cases = [(2020, 0), (2013, 0), (2009, 0), (2008, 1), (1989, 4), (1988, 5), (1956, 5)];
        for (year, class) in cases {
            assert_eq!(age_class(Some(year)), class, "{year}");
        }
        assert_eq!(age_class(None), 6);
    }

    #[test]
    fn delays_count_from_the_mean_of_their_age_class_over_all_destinations() {
        let reference = Reference {
            years: [("NEW", 2012), ("OLD", 1980)].map(|(n, year)| (n.to_owned(), year)).into(),
            airports: ["IAH", "MIA"].map(str::to_owned).into(),
        };
        let flights =
            [("IAH", "NEW", 10), ("SJU", "NEW", 40), ("MIA", "OLD", 7), ("IAH", "UNKNOWN", -3)];
        let excess = ExcessDelays::of(&day("2013-01-01", &flights), &reference);
        let expected =
            [("IAH", Tally { count: 2, sum: -15.0 }), ("MIA", Tally { count: 1, sum: 0.0 })];
        let expected = expected.map(|(name, tally)| (name.to_owned(), tally));
        assert_eq!(excess.by_destination, expected.into());
    }

    #[test]
    fn a_window_adds_three_days_and_drops_destinations_with_few_flights() {
        let excess = |date: &str, iah, mia| ExcessDelays {
            date: date.to_owned(),
            by_destination: [("IAH", iah), ("MIA", mia)]
                .map(|(name, count)| (name.to_owned(), Tally { count, sum: 6.0 }))
                .into(),
        };
        let window = Window::over(&excess("a", 1, 1), &excess("b", 3, 2), &excess("c", 2, 1));
        assert_eq!(window.dates, "a..c");
        assert_eq!(window.means, [("IAH".to_owned(), 3.0)].into());
    }

    #[test]
    fn correlation_is_pearsons() {
        let rising = [1.0, 2.0, 3.0, 4.0];
        let falling = [8.0, 6.0, 4.0, 2.0];
        let close = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-12);
        assert!(close(correlation(&rising, &rising), 1.0));
        assert!(close(correlation(&rising, &falling), -1.0));
        assert!(close(correlation(&rising, &[1.0, 3.0, 2.0, 4.0]), 0.8));
    }

    #[test]
    fn equal_values_have_no_correlation_even_when_their_mean_is_rounded() {
        let equal = [0.1; 10];
        assert!(equal.iter().any(|value| *value - mean(&equal) != 0.0), "the mean is not rounded");
        let other: Vec<_> = (0..10).map(f64::from).collect();
        assert_eq!(correlation(&equal, &other), None);
        assert_eq!(correlation(&other, &equal), None);
    }

    #[test]
    fn windows_are_compared_over_ten_common_destinations_or_not_at_all() {
        let ten = window("x", (0..10).map(f64::from));
        let twelve = window("y", (0..12).map(f64::from));
        let nine = window("z", (0..9).map(f64::from));
        assert_eq!(Comparison::of(&ten, &twelve).to_string(), "x and y: correlation 1.000000");
        assert_eq!(
            Comparison::of(&twelve, &nine),
            Comparison { x: "y".to_owned(), y: "z".to_owned(), correlation: None }
        );
    }

    #[test]
    fn the_best_is_the_greatest_and_of_equals_the_first() {
        let comparisons = [
            comparison("none", None),
            comparison("low", Some(-0.5)),
            comparison("first", Some(0.25)),
            comparison("second", Some(0.25)),
            comparison("none", None),
        ];
        assert_eq!(Comparison::best(&comparisons), Some(&comparisons[2]));
        assert_eq!(Comparison::best(&comparisons[..2]), Some(&comparisons[1]));
        assert_eq!(Comparison::best(&comparisons[..1]), None);
    }
}
