//! Flights, a file a day.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::tables::read_columns;

/// The fewest days that hold two windows of three without a day in common.
const DAYS_MIN: usize = 6;

/// A flight that arrived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flight {
    /// The code of the airport it flew to.
    pub(crate) dest: String,
    /// The plane's registration.
    pub(crate) tailnum: String,
    /// Minutes late; below zero: early.
    pub(crate) arr_delay: i32,
}

/// The flights of one day whose destination, plane and delay are known, in the file's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Day {
    /// As in the file's name: `2013-01-01`.
    pub(crate) date: String,
    /// The flights.
    pub(crate) flights: Vec<Flight>,
}

impl Day {
    /// Reads one gzipped CSV file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut flights = Vec::new();
        for row in read_columns(path, ["dest", "tailnum", "arr_delay"])? {
            if let [Some(dest), Some(tailnum), Some(delay)] = row {
                let arr_delay = delay.parse().with_context(|| {
                    format!("failed to read {}: arr_delay `{delay}`", path.display())
                })?;
                flights.push(Flight { dest, tailnum, arr_delay });
            }
        }
        Ok(Self { date: date_of(path), flights })
    }
}

/// The first `count` files of `data/flights`, by date.
pub(crate) fn files(data: &Path, count: usize) -> Result<Vec<PathBuf>> {
    ensure!(count >= DAYS_MIN, "--days {count} is too few: two windows need {DAYS_MIN} days");
    let folder = data.join("flights");
    let mut files = gzipped_tables(&folder)
        .with_context(|| format!("failed to list the folder {}", folder.display()))?;
    ensure!(
        files.len() >= count,
        "--days {count} is too many: {} holds {} days",
        folder.display(),
        files.len()
    );
    files.sort();
    files.truncate(count);
    Ok(files)
}

fn gzipped_tables(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".csv.gz") {
            files.push(path);
        }
    }
    Ok(files)
}

fn date_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(".csv.gz").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::tests::write_gz;

    #[test]
    fn a_day_keeps_the_flights_that_are_known_in_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2013-01-01.csv.gz");
        let rows = "11,N1,IAH\nNA,N2,IAH\n3,,IAH\n4,N4,NA\n-20,N5,MIA\n";
        write_gz(&path, &format!("arr_delay,tailnum,dest\n{rows}"));
        let flight = |dest: &str, tailnum: &str, arr_delay| Flight {
            dest: dest.to_owned(),
            tailnum: tailnum.to_owned(),
            arr_delay,
        };
        let day = Day::read(&path).unwrap();
        assert_eq!(day.date, "2013-01-01");
        assert_eq!(day.flights, [flight("IAH", "N1", 11), flight("MIA", "N5", -20)]);
    }

    #[test]
    fn a_delay_that_is_no_number_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2013-01-01.csv.gz");
        write_gz(&path, "arr_delay,tailnum,dest\nlate,N1,IAH\n");
        let error = format!("{:#}", Day::read(&path).unwrap_err());
        assert!(error.contains(path.to_str().unwrap()) && error.contains("`late`"), "{error}");
    }

    #[test]
    fn files_are_the_first_by_date() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("flights");
        assert!(files(data.path(), 6).unwrap_err().to_string().contains(folder.to_str().unwrap()));

        std::fs::create_dir(&folder).unwrap();
        for day in [7, 3, 1, 5, 2, 6, 4] {
            std::fs::write(folder.join(format!("2013-01-0{day}.csv.gz")), "").unwrap();
        }
        std::fs::write(folder.join("README.md"), "").unwrap();
        let dates: Vec<_> =
            files(data.path(), 6).unwrap().iter().map(|path| date_of(path)).collect();
        let expected: Vec<_> = (1..=6).map(|day| format!("2013-01-0{day}")).collect();
        assert_eq!(dates, expected);

        assert!(files(data.path(), 5).unwrap_err().to_string().contains("6 days"));
        assert!(files(data.path(), 8).unwrap_err().to_string().contains("holds 7 days"));
    }
}
