//! Tables of made-up figures.

use serde_json::json;

use super::*;

const TERMS: Terms = Terms { runs: 3, limit_s: 90, cores: 2 };

fn column(workload: &'static str, ours: &str, peers: &str, unit: Unit) -> Column {
    Column { workload, ours: ours.to_owned(), peers: peers.to_owned(), unit }
}

fn tried(size: &str, outcome: Outcome) -> Cell {
    Cell::Tried { size: size.to_owned(), outcome }
}

fn measured(size: &str, line: Value) -> Cell {
    let Value::Object(line) = line else { panic!("a line is an object") };
    tried(size, Outcome::Measured(line))
}

fn row(name: &str, note: &'static str, cells: Vec<Cell>) -> Row {
    Row { name: name.to_owned(), note, cells }
}

#[test]
fn numbers_are_short_and_readable() {
    let numbers = [142_345.0, 999_600.0, 573.2, 3.666, 0.172_49, 0.05, 1_234_567.0];
    let texts = numbers.map(|number| digits(number, 3));
    let expected = ["142,000", "1,000,000", "573", "3.67", "0.172", "0.0500", "1,230,000"];
    assert_eq!(texts, expected);
    assert_eq!(
        [248.4, 9.87, 0.851, 1.0].map(|ratio| digits(ratio, 2)),
        ["250", "9.9", "0.85", "1.0"]
    );
}

#[test]
fn each_cell_has_its_figure_and_how_many_times_as_fast_the_first_row_is() {
    let columns = [
        column("noop", "100000", "10000", Unit::TasksPerSecond),
        column("bigfan", "64,64", "64,64", Unit::Seconds),
    ];
    let rows = [
        row(
            "bolthole",
            "",
            vec![
                measured("100000", json!({"tasks_per_s": 150_000, "seconds": [1, 1, 1]})),
                measured("64,64", json!({"median_s": 0.2, "seconds": [1, 1, 1]})),
            ],
        ),
        row(
            "Peer 1.0",
            "as shipped",
            vec![
                measured("200", json!({"tasks_per_s": 600.0, "seconds": [1, 1]})),
                measured("64,64", json!({"median_s": 0.1, "seconds": [1, 1, 1]})),
            ],
        ),
    ];
    let text = markdown(&columns, &rows, TERMS);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "|  | noop 100000 (others 10000), tasks/s | bigfan 64,64, time |",
            "| --- | --- | --- |",
            "| bolthole | 150,000/s | 0.200 s |",
            "| Peer 1.0 | 600/s (×250) | 0.100 s (×0.50) |",
        ]
    );
    assert!(lines.contains(&"Peer 1.0: as shipped."), "{text}");
    assert!(lines.contains(&"Other sizes: Peer 1.0 noop 200."), "{text}");
    assert!(text.ends_with("over 90 s: Peer 1.0 noop (2)."), "{text}");
}

#[test]
fn what_was_not_measured_says_why() {
    let columns = [column("latency", "9", "9", Unit::Milliseconds)];
    let failed = tried("9", Outcome::Failed("no".to_owned()));
    let odd = measured("9", json!({"p50_ms": "fast"}));
    let cells = [tried("9", Outcome::OverLimit), failed, odd, Cell::NotInstalled, Cell::Lacks];
    let mut rows = vec![row("bolthole", "", vec![measured("9", json!({"p50_ms": 1.04}))])];
    rows.extend(cells.into_iter().map(|cell| row("p", "", vec![cell])));
    let text = markdown(&columns, &rows, TERMS);
    let cells: Vec<_> = text.lines().skip(2).take(6).collect();
    let expected = ["| bolthole | 1.04 ms |", "| p | > 90 s |", "| p | fails |", "| p | fails |"];
    assert_eq!(cells[..4], expected);
    assert_eq!(cells[4..], ["| p | not installed |", "| p | – |"]);
}

#[test]
fn without_a_first_row_nothing_is_compared() {
    let columns = [column("latency", "9", "9", Unit::Milliseconds)];
    let first = row("bolthole", "", vec![tried("9", Outcome::OverLimit)]);
    let rows = [first, row("p", "", vec![measured("9", json!({"p50_ms": 2}))])];
    let text = markdown(&columns, &rows, TERMS);
    assert!(text.contains("| p | 2.00 ms |"), "{text}");
}

#[test]
fn durations_are_held_against_a_schedule_that_costs_nothing() {
    let file = "/some/where/montage.json.gz,0.05,0.2";
    let columns = [
        column("noop", "1", "1", Unit::TasksPerSecond),
        column("trace", file, file, Unit::Seconds),
    ];
    let cells = vec![Cell::Lacks, measured(file, json!({"median_s": 4.5, "schedule_s": 4.27}))];
    let text = markdown(&columns, &[row("bolthole", "", cells)], TERMS);
    assert!(text.contains("| trace montage,0.05,0.2, time |"), "{text}");
    assert!(text.contains("| (critical path first, at no cost) |  | 4.27 s |"), "{text}");
}
