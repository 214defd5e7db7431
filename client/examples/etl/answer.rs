//! The whole computation in one thread, without tasks: what every way to run it must give.

use std::path::Path;

use crate::flights::{self, Day};
use crate::pairs;
use crate::reference_db::{self, Reference};
use crate::statistics::{Comparison, ExcessDelays, Window};

fn sequential(data: &Path, day_count: usize, pair_count: usize, seed: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let database = reference_db::build_if_missing(data, folder.path()).unwrap();
    let reference = Reference::read(&database).unwrap();
    let files = flights::files(data, day_count).unwrap();
    let days: Vec<_> =
        files.iter().map(|file| ExcessDelays::of(&Day::read(file).unwrap(), &reference)).collect();
    let windows: Vec<_> = days.windows(3).map(|w| Window::over(&w[0], &w[1], &w[2])).collect();
    let pairs = pairs::draw(windows.len(), pair_count, seed);
    let compared: Vec<_> =
        pairs.into_iter().map(|(i, j)| Comparison::of(&windows[i], &windows[j])).collect();
    Comparison::best(&compared).unwrap().to_string()
}

#[test]
fn the_answer_is_the_one_another_language_gives() {
    // As `tests/peers/etl_sequential.py` prints them.
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/etl/data");
    assert_eq!(
        sequential(&data, 100, 200, 42),
        "2013-02-04..2013-02-06 and 2013-01-23..2013-01-25: correlation 0.662435"
    );
    assert_eq!(
        sequential(&data, 33, 50, 7),
        "2013-01-02..2013-01-04 and 2013-01-29..2013-01-31: correlation 0.686013"
    );
}
