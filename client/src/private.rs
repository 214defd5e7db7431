//! What the code written by `#[task]` calls. No part of the interface: it changes with the macro.

use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

pub use bolthole_broker::call::{Call, Outcome};
pub use bolthole_broker::inventory;
pub use bolthole_broker::registry::{Body, BodyFuture, TaskEntry};
pub use bolthole_broker::task::{Backoff, TaskKind, TaskOptions};

use bolthole_broker::args::encode;
use bolthole_broker::call::{Failure, Lent, State};
use bolthole_broker::{clock, limits};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::arg::Encoder;
use crate::capture::capture;
use crate::delayed::Delayed;

/// A type of a task's parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a task",
    label = "cannot travel to a worker",
    note = "arguments travel encoded: derive `serde::Serialize` and `serde::Deserialize` for \
            `{Self}`",
    note = "a value that stays with the worker, such as a connection, is a `State<{Self}>`"
)]
pub trait Argument: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Argument for T {}

/// A type that tasks of one process share.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be lent to a task",
    label = "not shared between threads",
    note = "a worker lends one value to several tasks at once: `{Self}` must be `Send`, `Sync` and \
            own its data"
)]
pub trait Lendable: Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + 'static> Lendable for T {}

/// A type of a task's result.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a task",
    label = "cannot travel from a worker",
    note = "results travel encoded and are shared between threads: derive `serde::Serialize` and \
            `serde::Deserialize` for `{Self}`; it must be `Send`, `Sync` and own its data",
    note = "if it is an alias of `Result`, write `Result<..>` as the return type"
)]
pub trait Output: Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Output for T {}

/// An error that a task returns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a task",
    label = "no error",
    note = "implement `std::error::Error` for `{Self}` (with `Send` and `Sync`), or return what \
            turns into `Box<dyn Error + Send + Sync>`, such as `String` or `anyhow::Error`"
)]
pub trait TaskFailure: Into<Box<dyn Error + Send + Sync>> {}

#[diagnostic::do_not_recommend]
impl<E: Into<Box<dyn Error + Send + Sync>>> TaskFailure for E {}

/// The argument of parameter `number`, owned.
pub fn take<T: Argument + 'static>(call: &Call, number: usize) -> Result<T, Outcome> {
    call.take(number)
}

/// The argument of parameter `number`, borrowed.
pub fn lend<T: Argument + Lendable>(call: &Call, number: usize) -> Result<Lent<T>, Outcome> {
    call.lend(number)
}

/// The worker's value of type `T`.
pub fn state<T: Send + Sync + 'static>(call: &Call) -> Result<State<T>, Outcome> {
    call.state()
}

/// The outcome of an attempt that got as far as its arguments, or not.
pub fn settle(attempt: Result<Outcome, Outcome>) -> Outcome {
    attempt.unwrap_or_else(|unusable| unusable)
}

/// The same for `async fn`.
pub fn settle_later<F>(attempt: F) -> BodyFuture
where
    F: Future<Output = Result<Outcome, Outcome>> + Send + 'static,
{
    Box::pin(async { settle(attempt.await) })
}

/// A body returned a value.
pub fn returned<T: Output>(value: T) -> Outcome {
    Outcome::done(value)
}

/// A body returned a value or an error.
pub fn returned_result<T: Output, E: TaskFailure>(
    result: Result<T, E>,
    encode: EncodeFailure<E>,
) -> Outcome {
    result.map_or_else(|error| failed(error, encode), Outcome::done)
}

/// A body returned a call whose result is to be its own.
#[expect(clippy::needless_pass_by_value, reason = "as the body returned it")]
pub fn returned_delayed<T: Output>(call: Delayed<T>) -> Outcome {
    match capture(&[&call]) {
        Ok(captured) => Outcome::Forwarded(Box::new(captured)),
        Err(error) => Outcome::Unusable(format!("the returned graph: {}", chain(&error))),
    }
}

/// A body returned such a call or an error.
pub fn returned_delayed_result<T: Output, E: TaskFailure>(
    result: Result<Delayed<T>, E>,
    encode: EncodeFailure<E>,
) -> Outcome {
    result.map_or_else(|error| failed(error, encode), returned_delayed)
}

fn failed<E: TaskFailure>(error: E, encode: EncodeFailure<E>) -> Outcome {
    let encoded = encode(&error);
    let error: Box<dyn Error + Send + Sync> = error.into();
    Outcome::Failed(Failure { encoded, ..Failure::of(&*error) })
}

/// Encodes an error for whoever waits for the result, when its type can be.
pub type EncodeFailure<E> = fn(&E) -> Option<Bytes>;

/// Tells error types that can be encoded from the others: its own `encode` goes before that of
/// [`Opaque`], and is there for types that implement `Serialize`.
pub struct ErrorType<E>(PhantomData<E>);

impl<E: Serialize> ErrorType<E> {
    /// The encoded error, unless it is too large to travel with a failure.
    pub fn encode(error: &E) -> Option<Bytes> {
        let encoded = encode(error).ok()?;
        (encoded.len() <= limits::ERROR_BYTES_MAX).then(|| Bytes::from(encoded))
    }
}

/// Every other error type.
pub trait Opaque<E> {
    /// Nothing.
    fn encode(_: &E) -> Option<Bytes> {
        None
    }
}

impl<E> Opaque<E> for ErrorType<E> {}

fn chain(error: &(dyn Error + 'static)) -> String {
    Failure::of(error).chain.join(": ")
}

/// The value of a `Result` that is written without its types, such as `fmt::Result`.
pub trait Fallible {
    /// What it holds when all went well.
    type Value;
}

impl<T, E> Fallible for Result<T, E> {
    type Value = T;
}

/// A time from now on, in milliseconds since 1970; asked for when a graph is captured.
pub fn from_now(after: Duration) -> u64 {
    clock::unix_ms().saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

/// Tells a `Result` under another name from every other type: its own `check` goes before that of
/// [`Otherwise`].
pub struct Returned<T>(PhantomData<T>);

/// The return type is an alias of `Result`.
pub struct AliasOfResult;

/// The return type is an alias of `Delayed`.
pub struct AliasOfDelayed;

/// The return type is a plain one.
pub struct PlainType;

impl<T, E> Returned<Result<T, E>> {
    /// Chosen for a `Result`.
    pub fn check() -> AliasOfResult {
        AliasOfResult
    }
}

impl<T> Returned<Delayed<T>> {
    /// Chosen for a `Delayed`.
    pub fn check() -> AliasOfDelayed {
        AliasOfDelayed
    }
}

/// Every other type.
pub trait Otherwise {
    /// Chosen when no other is.
    fn check() -> PlainType {
        PlainType
    }
}

impl<T> Otherwise for Returned<T> {}

/// Only [`PlainType`] is.
#[diagnostic::on_unimplemented(
    message = "a task's return type must show what it is",
    label = "an alias: `#[task]` reads the text of the return type",
    note = "write `Result<..>` or `Delayed<..>` (any path to it) in place of the alias"
)]
pub trait Plain {}

impl Plain for PlainType {}

/// Accepts what [`Returned`] chose for a plain type.
pub fn plain(_: impl Plain) {}
