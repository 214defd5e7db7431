use std::collections::HashMap;

use bolthole::task;

#[task]
fn any<T>(value: T) -> T {
    //~^ a task cannot be generic
    value
}

#[task]
fn borrowed<'a>(value: &'a str) -> String {
    //~^ a task cannot be generic
    value.to_owned()
}

#[task]
fn shown(value: impl ToString) -> String {
    //~^ an argument has one known type
    value.to_string()
}

#[task]
fn object(value: &dyn ToString) -> String {
    //~^ an argument has one known type
    value.to_string()
}

#[task]
fn inside(values: HashMap<u8, &str>) -> usize {
    //~^ only a whole parameter may be borrowed
    values.len()
}

#[task]
fn forever(value: &'static str) -> usize {
    //~^ an argument is lent for one call only
    value.len()
}

#[task]
fn returned(value: &str) -> &str {
    //~^ a task's result owns its data
    value
}

#[task]
fn iterator() -> impl Iterator<Item = u8> {
    //~^ a task's result has one known type
    0..3
}

#[task]
unsafe fn dangerous() {}
//~^ a task cannot be unsafe to call

fn main() {}
