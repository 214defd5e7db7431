//! What a server is like: read for whoever sets it up. Nothing is refused, and nothing is changed
//! unless it is asked for.

use redis::Value;
use tokio::time::Instant;

use super::connect::field;
use super::{Redis, bytes, library, list};
use crate::clock;
use crate::limits;
use crate::store::Error;

/// A server as it is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Such as `7.0.15`.
    pub version: String,
    /// What it does when its memory is full: [`Redis::connect`] takes `noeviction` alone. `None`
    /// when it does not say.
    pub eviction: Option<String>,
    /// The most memory it may use, in bytes; 0 for all there is.
    pub memory_max_bytes: u64,
    /// What it uses, in bytes.
    pub memory_used_bytes: u64,
    /// Whether it writes down every change.
    pub append_only: bool,
    /// How soon a change is on disk: `always`, `everysec` or `no`. `None` when this user may not
    /// read the settings.
    pub append_fsync: Option<String>,
    /// Its clock less this machine's, in milliseconds, give or take the time of an answer.
    pub ahead_ms: i64,
}

/// The name of this program's functions in a server, and the start of their text's BLAKE3 digest.
pub fn functions_version() -> String {
    let digest = blake3::hash(library::CODE.as_bytes()).to_hex();
    format!("{} ({})", library::NAME, &digest[..8])
}

/// The functions that a server has under this program's name for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Functions {
    /// This program's.
    Ours,
    /// None.
    Missing,
    /// Those of another build. The next process that connects replaces them by its own, unless they
    /// are of a later revision: then it uses them.
    Others,
}

impl Redis {
    /// Looks at the server at `url`, whatever it is like. The store that is answered can be read,
    /// but has not been found suitable: see [`Redis::connect`] for that and for the errors.
    pub async fn survey(url: &str, namespace: &str) -> Result<(Self, Survey), Error> {
        let store = Self::at(url, namespace)?;
        let deadline = Instant::now() + limits::CONNECT_DEADLINE / 2;
        let info = store.info(deadline).await?;
        let text = |name: &str| field(&info, name).map(ToOwned::to_owned);
        let number = |name: &str| field(&info, name).and_then(|text| text.parse().ok());
        let survey = Survey {
            version: text("redis_version").unwrap_or_default(),
            eviction: text("maxmemory_policy"),
            memory_max_bytes: number("maxmemory").unwrap_or(0),
            memory_used_bytes: number("used_memory").unwrap_or(0),
            append_only: field(&info, "aof_enabled") == Some("1"),
            append_fsync: store.setting("appendfsync", deadline).await?,
            ahead_ms: store.ahead_ms(deadline).await?,
        };
        Ok((store, survey))
    }

    /// Which functions the server has. Needs the right to list them.
    pub async fn functions(&self) -> Result<Functions, Error> {
        let deadline = Instant::now() + limits::CONNECT_DEADLINE / 2;
        let found = self.lanes.library(deadline).await?;
        if library::contains(&found, library::CODE.as_bytes()) {
            return Ok(Functions::Ours);
        }
        let none =
            matches!(&found, Value::Nil) || matches!(&found, Value::Array(all) if all.is_empty());
        Ok(if none { Functions::Missing } else { Functions::Others })
    }

    /// Gives the server this program's functions, in place of those of another build.
    pub async fn load_functions(&self) -> Result<(), Error> {
        self.lanes.ensure_library(Instant::now() + limits::CONNECT_DEADLINE / 2).await
    }

    /// A setting; `None` when this user may not read it.
    async fn setting(&self, name: &str, deadline: Instant) -> Result<Option<String>, Error> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        let value = match self.lanes.ask_by(&0, &command, deadline).await {
            Ok(Value::Map(pairs)) => pairs.into_iter().next().map(|(_, value)| value),
            Ok(Value::Array(pair)) => pair.into_iter().nth(1),
            Err(error) if error.is_retryable() => return Err(error),
            // Some servers have no such command, others not for everyone.
            Ok(_) | Err(_) => None,
        };
        let value = value.and_then(|value| bytes(value).ok());
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    async fn ahead_ms(&self, deadline: Instant) -> Result<i64, Error> {
        let before = clock::unix_ms();
        let answer = list(self.lanes.ask_by(&0, &redis::cmd("TIME"), deadline).await?)?;
        let here = before.midpoint(clock::unix_ms());
        let mut parts = answer.into_iter().filter_map(|part| {
            let part = bytes(part).ok()?;
            std::str::from_utf8(&part).ok()?.parse::<u64>().ok()
        });
        let (Some(seconds), Some(micros)) = (parts.next(), parts.next()) else {
            return Err(Error::Corrupt("TIME".to_owned()));
        };
        let there = seconds * 1_000 + micros / 1_000;
        Ok(i64::try_from(i128::from(there) - i128::from(here)).unwrap_or(i64::MAX))
    }
}
