//! What a server is like: read for whoever sets it up. Nothing is refused, and nothing is changed
//! unless it is asked for.

use redis::Value;
use tokio::time::Instant;

use super::connect::field;
use super::lanes::Lanes;
use super::{Redis, bytes, library, list};
use crate::clock;
use crate::limits;
use crate::store::Error;

/// A server as it is set up; of several, the worst of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// How many there are that have keys.
    pub servers: usize,
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

impl Survey {
    /// What is to be known of two servers.
    fn and(self, other: Self) -> Self {
        let numbers = |version: &str| -> Vec<u32> {
            version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
        };
        let older = numbers(&other.version) < numbers(&self.version);
        // Full is the one of which more is used, whatever its size.
        let share = |one: &Self| {
            let used = u128::from(one.memory_used_bytes) << 64;
            used.checked_div(one.memory_max_bytes.into()).unwrap_or(0)
        };
        let fuller = share(&other) >= share(&self);
        let (max, used) = if fuller {
            (other.memory_max_bytes, other.memory_used_bytes)
        } else {
            (self.memory_max_bytes, self.memory_used_bytes)
        };
        let worse = |fsync: &Option<String>| match fsync.as_deref() {
            Some("always") => 0,
            Some("everysec") => 1,
            None => 2,
            Some(_) => 3,
        };
        let lazier = worse(&other.append_fsync) > worse(&self.append_fsync);
        let keeps = self.eviction.as_deref() == Some("noeviction");
        Self {
            servers: self.servers + other.servers,
            version: if older { other.version } else { self.version },
            eviction: if keeps { other.eviction } else { self.eviction },
            memory_max_bytes: max,
            memory_used_bytes: used,
            append_only: self.append_only && other.append_only,
            append_fsync: if lazier { other.append_fsync } else { self.append_fsync },
            ahead_ms: std::cmp::max_by_key(self.ahead_ms, other.ahead_ms, |ms| ms.unsigned_abs()),
        }
    }
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
    /// Looks at the server or servers at `url`, whatever they are like. The store that is answered can be read,
    /// but has not been found suitable: see [`Redis::connect`] for that and for the errors.
    pub async fn survey(url: &str, namespace: &str) -> Result<(Self, Survey), Error> {
        let store = Self::at(url, namespace)?;
        let deadline = Instant::now() + limits::CONNECT_DEADLINE / 2;
        let mut all: Option<Survey> = None;
        for server in store.servers.masters(deadline).await? {
            let one = store.survey_one(&server, deadline).await?;
            all = Some(match all {
                None => one,
                Some(others) => others.and(one),
            });
        }
        let nobody = || Error::Corrupt("a cluster without servers".to_owned());
        Ok((store, all.ok_or_else(nobody)?))
    }

    async fn survey_one(&self, server: &Lanes, deadline: Instant) -> Result<Survey, Error> {
        let info = bytes(self.servers.ask_at(server, &redis::cmd("INFO"), deadline).await?)?;
        let info = String::from_utf8_lossy(&info);
        let text = |name: &str| field(&info, name).map(ToOwned::to_owned);
        let number = |name: &str| field(&info, name).and_then(|text| text.parse().ok());
        Ok(Survey {
            servers: 1,
            version: text("redis_version").unwrap_or_default(),
            eviction: text("maxmemory_policy"),
            memory_max_bytes: number("maxmemory").unwrap_or(0),
            memory_used_bytes: number("used_memory").unwrap_or(0),
            append_only: field(&info, "aof_enabled") == Some("1"),
            append_fsync: self.setting(server, "appendfsync", deadline).await?,
            ahead_ms: self.ahead_ms(server, deadline).await?,
        })
    }

    /// Which functions the server has; of several, what the first has that has not this program's.
    /// Needs the right to list them.
    pub async fn functions(&self) -> Result<Functions, Error> {
        let deadline = Instant::now() + limits::CONNECT_DEADLINE / 2;
        for server in self.servers.masters(deadline).await? {
            let found = self.servers.library(&server, deadline).await?;
            if library::contains(&found, library::CODE.as_bytes()) {
                continue;
            }
            let none = matches!(&found, Value::Nil)
                || matches!(&found, Value::Array(all) if all.is_empty());
            return Ok(if none { Functions::Missing } else { Functions::Others });
        }
        Ok(Functions::Ours)
    }

    /// Gives every server this program's functions, in place of those of another build.
    pub async fn load_functions(&self) -> Result<(), Error> {
        self.servers.ensure_library(Instant::now() + limits::CONNECT_DEADLINE / 2).await
    }

    /// A setting; `None` when this user may not read it.
    async fn setting(
        &self,
        server: &Lanes,
        name: &str,
        deadline: Instant,
    ) -> Result<Option<String>, Error> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        let value = match self.servers.ask_at(server, &command, deadline).await {
            Ok(Value::Map(pairs)) => pairs.into_iter().next().map(|(_, value)| value),
            Ok(Value::Array(pair)) => pair.into_iter().nth(1),
            Err(error) if error.is_retryable() => return Err(error),
            // Some servers have no such command, others not for everyone.
            Ok(_) | Err(_) => None,
        };
        let value = value.and_then(|value| bytes(value).ok());
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    async fn ahead_ms(&self, server: &Lanes, deadline: Instant) -> Result<i64, Error> {
        let before = clock::unix_ms();
        let answer = list(self.servers.ask_at(server, &redis::cmd("TIME"), deadline).await?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_servers_the_worst_counts() {
        let well = Survey {
            servers: 1,
            version: "7.2.10".to_owned(),
            eviction: Some("noeviction".to_owned()),
            memory_max_bytes: 0,
            memory_used_bytes: 900,
            append_only: true,
            append_fsync: Some("always".to_owned()),
            ahead_ms: 3,
        };
        let bad = Survey {
            version: "7.2.9".to_owned(),
            eviction: Some("allkeys-lru".to_owned()),
            memory_max_bytes: 100,
            memory_used_bytes: 95,
            append_only: false,
            append_fsync: Some("no".to_owned()),
            ahead_ms: -4,
            ..well.clone()
        };
        let worst = Survey { servers: 2, ..bad.clone() };
        assert_eq!(well.clone().and(bad.clone()), worst);
        assert_eq!(bad.and(well), worst);
    }
}
