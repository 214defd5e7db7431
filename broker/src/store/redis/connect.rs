//! Finding a server and checking that it will do.

use std::sync::Arc;

use redis::{IntoConnectionInfo, Value};
use tokio::time::Instant;

use super::keys::Keys;
use super::lanes::Lanes;
use super::{Redis, bytes};
use crate::limits;
use crate::store::{Epoch, Error};

impl Redis {
    /// Connects to the server at `url` (`redis://user:password@host:port/db`, `rediss://` for TLS);
    /// all keys begin with `namespace`, unless it is empty. Loads the functions when the server does
    /// not have them.
    ///
    /// # Errors
    /// Within [`limits::CONNECT_DEADLINE`]: [`Error::Unreachable`] when nothing answers there,
    /// [`Error::Denied`] when user or password is wrong or a right is missing,
    /// [`Error::Unsuitable`] when the URL is none, or the server is too old or may evict keys.
    pub async fn connect(url: &str, namespace: &str) -> Result<Self, Error> {
        let store = Self::at(url, namespace)?;
        let deadline = Instant::now() + limits::CONNECT_DEADLINE / 2;
        let info = store.info(deadline).await?;
        store.check(&info)?;
        store.lanes.ensure_library(deadline).await?;
        Ok(store)
    }

    /// The store at `url`, to which nothing is connected yet.
    pub(super) fn at(url: &str, namespace: &str) -> Result<Self, Error> {
        // Only one part of a process can choose; who came first has chosen the same or knows why.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable = |reason: String| Error::Unsuitable {
            address: "the given URL".to_owned(),
            reason: format!("{reason}; write redis://user:password@host:port/0"),
        };
        if hides_its_host(url) {
            let todo = "/, ? and # in a user name or password must be percent-encoded";
            return Err(unusable(todo.to_owned()));
        }
        let info = url.into_connection_info().map_err(|error| unusable(error.to_string()))?;
        let lanes = Lanes::new(&info, info.addr().to_string())?;
        Ok(Self { lanes: Arc::new(lanes), keys: Keys::new(namespace) })
    }

    /// What the server says of itself.
    pub(super) async fn info(&self, deadline: Instant) -> Result<String, Error> {
        let info = bytes(self.lanes.ask_by(&0, &redis::cmd("INFO"), deadline).await?)?;
        Ok(String::from_utf8_lossy(&info).into_owned())
    }

    /// `host:port` of the server.
    pub fn address(&self) -> &str {
        self.lanes.address()
    }

    fn check(&self, info: &str) -> Result<(), Error> {
        let unsuitable = |reason: String| {
            Err(Error::Unsuitable { address: self.lanes.address().to_owned(), reason })
        };
        let version = field(info, "redis_version").unwrap_or("unknown");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return unsuitable(format!("it is version {version}; 7.0 or later is needed"));
        }
        match field(info, "maxmemory_policy") {
            None | Some("noeviction") => Ok(()),
            Some(policy) => unsuitable(format!(
                "its maxmemory-policy is {policy}, which deletes keys of running graphs; \
                 run: redis-cli CONFIG SET maxmemory-policy noeviction"
            )),
        }
    }

    /// The server's `run_id`: another one after each start.
    pub(in crate::store) async fn epoch(&self) -> Result<Epoch, Error> {
        let mut command = redis::cmd("INFO");
        command.arg("server");
        let answer: Value = self.lanes.ask(&0, &command).await?;
        let info = bytes(answer)?;
        let info = String::from_utf8_lossy(&info);
        let id = field(&info, "run_id").ok_or_else(|| Error::Corrupt("INFO server".to_owned()))?;
        Ok(Epoch(id.to_owned()))
    }
}

/// Whether what is taken for the host may be a part of the password: the parser ends user, password
/// and host at the first of these characters, wherever the last `@` is. A socket's path has no host.
fn hides_its_host(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return url.contains('@') };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    authority > 0 && rest[authority..].contains('@')
}

/// A line of `INFO`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_taken_for_the_host() {
        for url in [
            "redis://u:p@hunter2#x@host:1/0",
            "redis://u:p@hunter2/x@host",
            "redis://u:p@hunter2?x@host",
            "redis:\t//u:p@hunter2#x@host",
        ] {
            let error = Redis::at(url, "").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(error.to_string().contains("percent-encoded"), "{error}");
        }
        let store = Redis::at("redis://u:p%40%23@host:1/0", "").unwrap();
        assert_eq!(store.address(), "host:1");
        assert!(Redis::at("redis+unix:///run/redis.sock?pass=a@b", "").is_ok());
    }
}
