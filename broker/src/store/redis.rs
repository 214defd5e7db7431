//! The store in Redis: the specification's operations as functions that run inside the server.
//!
//! - `keys`, `library`: names of keys and functions; `functions/*.lua`: the functions themselves,
//!   `prelude.lua` with the layout of what is stored.
//! - `encode`, `decode`: packed arguments and replies.
//! - `servers`: which server is asked, deadlines, repeating; `lanes`: connections to one of them;
//!   `cluster`, `slots`: which server has what, when there are several; `trouble`: their errors.
//! - `connect`, `survey`: what a server must be like, and what one is like.
//! - `runs`, `tasks`, `events`, `workers`: the operations.
//! - `audit`: every change, for tests.
//! - `dump`, `keyspace`: all of a run, all of a namespace, for tools.

use bytes::Bytes;
use redis::{Cmd, Value};

use super::Error;
use crate::id::RunId;

#[cfg(feature = "failpoints")]
mod audit;
mod cluster;
mod connect;
mod decode;
mod dump;
mod encode;
mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod keys;
mod keyspace;
mod lanes;
mod library;
mod runs;
mod servers;
mod slots;
mod survey;
mod tasks;
mod trouble;
mod workers;

use keys::Keys;
pub use keyspace::{Keyspace, RunKeys};
use library::Function;
pub use survey::{Functions, Survey, functions_version};

/// The store in a Redis server, or in a cluster of them. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Redis {
    servers: servers::Shared,
    keys: Keys,
}

impl Redis {
    /// Calls a function of the library for a run.
    async fn call<A: AsRef<[u8]>>(
        &self,
        run: RunId,
        function: Function,
        arguments: &[A],
    ) -> Result<Bytes, Error> {
        let command = fcall(&self.keys.header(run), function, arguments);
        bytes(self.servers.ask(&run, &command).await?)
    }
}

/// The command that calls a function with one key.
fn fcall<A: AsRef<[u8]>>(key: &str, function: Function, arguments: &[A]) -> Cmd {
    fcall_of(&[key], function, arguments)
}

/// The same of several keys, which share a slot.
fn fcall_of<K: AsRef<str>, A: AsRef<[u8]>>(keys: &[K], function: Function, arguments: &[A]) -> Cmd {
    let mut command = redis::cmd(if function.reads { "FCALL_RO" } else { "FCALL" });
    command.arg(function.name).arg(keys.len());
    for key in keys {
        command.arg(key.as_ref());
    }
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    command
}

/// No arguments.
const NONE: &[&[u8]] = &[];

fn unexpected(value: &Value) -> Error {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::Array(_) => "a list",
        Value::ServerError(error) => return Error::Corrupt(format!("an answer: {error:?}")),
        _ => "something else",
    };
    Error::Corrupt(format!("an answer of the server is {kind}"))
}

fn bytes(value: Value) -> Result<Bytes, Error> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        other => Err(unexpected(&other)),
    }
}

fn optional_bytes(value: Value) -> Result<Option<Bytes>, Error> {
    if value == Value::Nil { Ok(None) } else { bytes(value).map(Some) }
}

fn list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(unexpected(&other)),
    }
}
