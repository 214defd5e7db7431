use bolthole::task;

#[task(retry = 3)]
//~^ unknown option; a task has the options pure, effect, retries
fn unknown() {}

#[task(retries = "3")]
//~^ expected an integer of type `u32`
fn text() {}

#[task(retries = -1)]
//~^ expected an integer of type `u32`
fn negative() {}

#[task(priority = 300)]
//~^ expected an integer of type `i8`
fn large() {}

#[task(timeout = "soon")]
//~^ expected a duration above zero, such as "90s"
fn soon() {}

#[task(timeout = 10)]
//~^ expected a string
fn bare() {}

#[task(backoff = "1s")]
//~^ expected the first and the longest wait: "1s..2m"
fn one_wait() {}

#[task(backoff = ("2m", "1s"))]
//~^ the first wait is longer than the longest
fn shrinking() {}

#[task(pure, effect)]
//~^ `kind` is given twice
fn both() {}

#[task(kind = "idempotent")]
//~^ a task's kind is `repeatable`, `pure` or `effect`
fn odd() {}

#[task(not_before = "2h", expires = "1h")]
//~^ the task would expire before it may start
fn never() {}

#[task(name = "")]
//~^ expected 1 to 128 bytes
fn unnamed() {}

#[task(resources(gpu))]
//~^ expected
fn no_amount() {}

#[task]
struct NoFunction;
//~^ a task is a function with a body

fn main() {}
