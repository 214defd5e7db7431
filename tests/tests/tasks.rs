//! `#[task]` and the calls it makes, run in order by `bolthole::testing`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
#![allow(
    clippy::needless_pass_by_value,
    clippy::needless_borrows_for_generic_args,
    reason = "every form of parameter and argument is tried"
)]

use std::fmt;
use std::path::{Path, PathBuf};

use bolthole::testing::{Sequential, SequentialError};
use bolthole::{Blob, Ctx, Delayed, State, task};
use bolthole_broker::args::encode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

fn run<T: DeserializeOwned>(call: &Delayed<T>) -> T {
    Sequential::new().compute(call).unwrap_or_else(|error| panic!("{error}"))
}

fn fails<T: DeserializeOwned + fmt::Debug>(call: &Delayed<T>) -> SequentialError {
    Sequential::new().compute(call).unwrap_err()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Table {
    rows: Vec<u32>,
}

#[derive(Debug)]
struct Empty {
    path: String,
}

impl fmt::Display for Empty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no rows in {}", self.path)
    }
}

impl std::error::Error for Empty {}

#[task]
fn load(path: String) -> Result<Table, Empty> {
    let rows: Vec<u32> = path.bytes().map(u32::from).collect();
    if rows.is_empty() { Err(Empty { path }) } else { Ok(Table { rows }) }
}

#[task]
async fn process(data: &Table, factor: u32) -> Table {
    tokio::task::yield_now().await;
    Table { rows: data.rows.iter().map(|row| row * factor).collect() }
}

#[task]
fn sum(tables: &[Table]) -> u32 {
    tables.iter().flat_map(|table| &table.rows).sum()
}

#[test]
fn a_loop_builds_a_graph_that_computes_what_the_functions_compute() {
    let tables: Vec<Delayed<Table>> = ["a", "bc"].iter().map(load::delayed).collect();
    let processed: Vec<_> = tables.iter().map(|table| process::delayed(table, 2)).collect();
    assert_eq!(run(&sum::delayed(&processed)), 2 * (97 + 98 + 99));
    assert_eq!(load("a".to_owned()).unwrap().rows, [97]);
}

#[test]
fn an_error_skips_what_needs_the_result_and_names_its_cause() {
    let error = fails(&sum::delayed(vec![process::delayed(load::delayed(""), 2)]));
    let SequentialError::Skipped { cause, .. } = error else { panic!("{error}") };
    assert_eq!(cause.to_string(), format!("{}::load failed: no rows in ", module_path!()));
}

#[task]
fn strings(owned: String, borrowed: &str, path: &Path, list: Vec<String>) -> String {
    format!("{owned} {borrowed} {} {}", path.display(), list.concat())
}

#[test]
fn texts_and_paths_are_given_as_they_come() {
    let (text, path) = ("b".to_owned(), PathBuf::from("c"));
    for call in [
        strings::delayed("a", &text, &path, ["d", "e"]),
        strings::delayed(String::from("a"), "b", Path::new("c"), vec!["d", "e"]),
        strings::delayed(&String::from("a"), text.as_str(), "c", &["d", "e"]),
        strings::delayed(&"a", text, String::from("c"), vec!["d".to_owned(), "e".to_owned()]),
    ] {
        assert_eq!(run(&call), "a b c de");
    }
}

#[task]
fn number(value: u32) -> u32 {
    value
}

#[task]
fn total(values: Vec<u32>) -> u32 {
    values.iter().sum()
}

#[task]
fn total_of_three(values: [u32; 3]) -> u32 {
    values.iter().sum()
}

#[task]
fn total_of_rows(rows: &[Vec<u32>]) -> u32 {
    rows.iter().flatten().sum()
}

#[task]
fn or_zero(value: Option<u32>) -> u32 {
    value.unwrap_or_default()
}

#[test]
fn lists_of_results_stand_for_lists() {
    let three: Vec<Delayed<u32>> = number::map([1, 2, 3]);
    let [a, b, c] = [&three[0], &three[1], &three[2]];
    let blob = Blob::new(&4_u32).unwrap();
    for call in [
        total::delayed(&three),
        total::delayed(three.clone()),
        total::delayed(&three[..]),
        total::delayed(vec![a, b, c]),
        total::delayed([a, b, c]),
        total::delayed(&[a, b, c]),
        total::delayed([1, 2, 3]),
        total::delayed(&[1_u32, 2, 3]),
        total::delayed(vec![&1, &2, &3]),
        total_of_three::delayed([a, b, c]),
        total_of_three::delayed([1, 2, 3]),
        total_of_rows::delayed(vec![vec![a.clone(), b.clone()], vec![], vec![c.clone()]]),
        total_of_rows::delayed(&[vec![a, b], vec![c]][..]),
        total_of_rows::delayed(vec![vec![1, 2], vec![3]]),
        total::delayed([&blob, &Blob::new(&2).unwrap()]),
    ] {
        assert_eq!(run(&call), 6);
    }
    let named: Vec<Delayed<u32>> = [a, b, c].iter().map(number::delayed).collect();
    assert_eq!(run(&total::delayed(named)), 6);
    assert_eq!(run(&or_zero::delayed(Some(a))), 1);
    assert_eq!(run(&or_zero::delayed(Some(a.clone()))), 1);
    assert_eq!(run(&or_zero::delayed(None::<Delayed<u32>>)), 0);
    assert_eq!(run(&or_zero::delayed(Some(7))), 7);
}

type Quadruple = (u32, String, Vec<u32>, Table);

#[task]
fn pair(pair: (u32, String)) -> String {
    format!("{} {}", pair.0, pair.1)
}

#[task]
fn pairs(pairs: Vec<(u32, String)>) -> String {
    let texts: Vec<_> = pairs.iter().map(|(number, text)| format!("{number} {text}")).collect();
    texts.concat()
}

#[task]
fn four(value: Quadruple) -> String {
    let (number, text, numbers, table) = value;
    format!("{number} {text} {numbers:?} {:?}", table.rows)
}

#[test]
fn tuples_mix_values_and_results() {
    let one = number::delayed(1);
    let text = pair::delayed((1, "x".to_owned()));
    for call in [
        pair::delayed((1, "1 x")),
        pair::delayed((&one, "1 x".to_owned())),
        pair::delayed((1, &text)),
        pair::delayed((one.clone(), text.clone())),
        pair::delayed((&1, &text)),
        pairs::delayed(vec![(&one, "1 x")]),
        pairs::delayed(vec![(1, &text)]),
        pairs::delayed(vec![(1, "1 x".to_owned())]),
    ] {
        assert_eq!(run(&call), "1 1 x");
    }
    let table = load::delayed("a");
    let plain = Table { rows: vec![97] };
    for call in [
        four::delayed((1, "x".to_owned(), vec![1], &table)),
        four::delayed((&one, "x", vec![&one], table.clone())),
        four::delayed((1, "x", [1], &plain)),
        four::delayed((1, "x".to_owned(), vec![one.clone()], plain.clone())),
        four::delayed((1, "x".to_owned(), vec![1], plain)),
    ] {
        assert_eq!(run(&call), "1 x [1] [97]");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Declined {
    card: u64,
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "card {} was declined", self.card)
    }
}

impl std::error::Error for Declined {}

#[task]
fn charge(card: u64) -> Result<(), Declined> {
    Err(Declined { card })
}

#[test]
fn an_error_that_can_be_encoded_travels_whole() {
    let SequentialError::Failed { failure, .. } = fails(&charge::delayed(7)) else { panic!() };
    assert_eq!(failure.chain, ["card 7 was declined"]);
    assert_eq!(failure.encoded.unwrap(), encode(&Declined { card: 7 }).unwrap());
    let SequentialError::Failed { failure, .. } = fails(&load::delayed("")) else { panic!() };
    assert_eq!(failure.encoded, None);
}

#[task]
fn with_surroundings(text: &str, unit: State<String>, ctx: &Ctx) -> String {
    format!("{text}{} {} {}", *unit, ctx.attempt(), ctx.header("hold").unwrap_or("-"))
}

#[test]
fn states_and_the_context_are_no_arguments() {
    let call = with_surroundings::delayed("5");
    let sequential = Sequential::new().state("kg".to_owned()).header("hold", "200");
    assert_eq!(sequential.compute(&call).unwrap(), "5kg 1 200");
    assert!(fails(&call).to_string().contains("worker.state"));
}

#[task(timeout = "1m")]
async fn waits(
    text: &str,
    list: &[String],
    unit: &State<String>,
    ctx: &Ctx,
) -> Result<String, Empty> {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    if list.is_empty() {
        return Err(Empty { path: text.to_owned() });
    }
    Ok(format!("{text}{}{}{}", list.concat(), **unit, ctx.is_cancelled()))
}

#[test]
fn async_tasks_keep_what_they_borrow_while_they_wait() {
    let text = waits::delayed("a", ["b", "c"]);
    let call = waits::delayed(&text, [&text]);
    let sequential = Sequential::new().state("-".to_owned());
    assert_eq!(sequential.compute(&call).unwrap(), "abc-falseabc-false-false");
    let sequential = Sequential::new().state("-".to_owned());
    let error = sequential.compute(&waits::delayed("a", Vec::<String>::new())).unwrap_err();
    assert!(error.to_string().ends_with("waits failed: no rows in a"), "{error}");
}

#[task(retries = 2)]
fn third_time(ctx: &Ctx) -> Result<u32, String> {
    if ctx.attempt() < 3 { Err(format!("attempt {}", ctx.attempt())) } else { Ok(ctx.attempt()) }
}

#[test]
fn a_failure_is_retried_as_often_as_asked() {
    assert_eq!(run(&third_time::delayed()), 3);
    assert!(fails(&third_time::delayed().retries(1)).to_string().ends_with("attempt 2"));
}

#[task]
fn fib(n: u64) -> Delayed<u64> {
    if n < 2 {
        identity::delayed(n)
    } else {
        add::delayed(fib::delayed(n - 1), fib::delayed(n - 2))
    }
}

#[task]
fn count_down(n: u64) -> Result<Delayed<u64>, String> {
    if n > 1_000_000 {
        return Err(format!("{n} is too far to count"));
    }
    Ok(if n == 0 { identity::delayed(0) } else { count_down::delayed(n - 1) })
}

#[task]
fn identity(n: u64) -> u64 {
    n
}

#[task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[test]
fn a_returned_call_stands_for_its_result() {
    assert_eq!(run(&fib::delayed(15)), 610);
    assert_eq!(run(&count_down::delayed(20_000)), 0);
}

#[task]
fn panics() {
    panic!("on {}", "purpose");
}

#[test]
fn a_panic_is_that_calls_failure() {
    assert!(fails(&panics::delayed()).to_string().ends_with("panicked: on purpose"));
}

#[task]
fn submits(ctx: &Ctx) -> Result<(), anyhow::Error> {
    Ok(reports::submit(ctx, number::delayed(7))?)
}

#[task]
fn reports(value: u32, to: State<std::sync::mpsc::Sender<u32>>) -> Result<(), anyhow::Error> {
    Ok(to.send(value)?)
}

#[test]
fn a_task_submits_tasks() {
    let (sender, receiver) = std::sync::mpsc::channel::<u32>();
    Sequential::new().state(sender).compute(&submits::delayed()).unwrap();
    assert_eq!(receiver.try_recv(), Ok(7));
}

#[test]
fn tasks_may_stand_in_a_function_with_its_own_types() {
    #[derive(Serialize, Deserialize)]
    struct Local(u32);

    #[task(name = "tests::local")]
    fn twice(value: &Local) -> Local {
        Local(2 * value.0)
    }

    let call = twice::delayed(twice::delayed(Local(3)));
    assert_eq!((run(&call).0, call.task()), (12, "tests::local"));
}

mod elsewhere {
    pub(crate) use bolthole as renamed;
}

#[task(crate = "elsewhere::renamed", pure)]
fn found_elsewhere((a, b): (u8, u8), mut c: u8) -> fmt::Result {
    c -= a + b;
    if c == 0 { Ok(()) } else { Err(fmt::Error) }
}

#[test]
fn patterns_as_parameters_and_results_without_types() {
    run(&found_elsewhere::delayed((1, 2), 3));
    assert!(fails(&found_elsewhere::delayed((1, 2), 4)).to_string().contains("failed: an error"));
    let calls = found_elsewhere::map([((1, 2), 3), ((2, 3), 5)]);
    assert_eq!(calls.len(), 2);
}
