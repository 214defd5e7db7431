//! Finding a server and checking that it will do.

use std::sync::Arc;

use redis::IntoConnectionInfo;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::keys::Keys;
use super::lanes::Lanes;
use super::servers::Servers;
use super::{Redis, bytes};
use crate::limits;
use crate::store::{Epoch, Error};

/// How a cluster's URL begins, and that of a server by itself with the same meaning.
const CLUSTER_SCHEMES: [(&str, &str); 2] =
    [("redis+cluster://", "redis://"), ("rediss+cluster://", "rediss://")];
/// Servers of a cluster that a URL may name.
const SEEDS_MAX: usize = 64;

impl Redis {
    /// Connects to the server at `url` (`redis://user:password@host:port/db`, `rediss://` for TLS), or
    /// to the Redis Cluster of which it names some servers
    /// (`redis+cluster://user:password@host:port,host:port`, `rediss+cluster://`); all keys begin with
    /// `namespace`, unless it is empty. Loads the functions where a server does not have them.
    ///
    /// # Errors
    /// Within [`limits::CONNECT_DEADLINE`]: [`Error::Unreachable`] when nothing answers there,
    /// [`Error::Denied`] when user or password is wrong or a right is missing,
    /// [`Error::Unsuitable`] when the URL is none, or a server is too old or may evict keys, or is in
    /// a cluster and the URL is not that of one.
    pub async fn connect(url: &str, namespace: &str) -> Result<Self, Error> {
        let store = Self::at(url, namespace)?;
        let deadline = Instant::now() + limits::CONNECT_DEADLINE / 2;
        for (address, info) in store.infos(deadline).await? {
            store.check(address, &info)?;
        }
        store.servers.ensure_library(deadline).await?;
        Ok(store)
    }

    /// The store at `url`, to which nothing is connected yet.
    pub(super) fn at(url: &str, namespace: &str) -> Result<Self, Error> {
        // Only one part of a process can choose; who came first has chosen the same or knows why.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable = |reason: String| Error::Unsuitable {
            address: "the given URL".to_owned(),
            reason: format!(
                "{reason}; write redis://user:password@host:port/0, or for a Redis Cluster \
                 redis+cluster://user:password@host:port,host:port"
            ),
        };
        if hides_its_host(url) {
            let todo = "/, ? and # in a user name or password must be percent-encoded";
            return Err(unusable(todo.to_owned()));
        }
        let info = |url: &str| url.into_connection_info().map_err(|error| error.to_string());
        let Some(seeds) = seeds(url) else {
            let info = info(url).map_err(unusable)?;
            let lanes = Arc::new(Lanes::new(&info, info.addr().to_string())?);
            let keys = Keys::new(namespace, false);
            return Ok(Self { servers: Arc::new(Servers::One(lanes)), keys });
        };
        if seeds.len() > SEEDS_MAX {
            return Err(unusable(format!("it names more than {SEEDS_MAX} servers")));
        }
        let infos: Result<Vec<_>, String> = seeds.iter().map(|seed| info(seed)).collect();
        let infos = infos.map_err(unusable)?;
        if infos.iter().any(|info| info.redis_settings().db() != 0) {
            return Err(unusable("a Redis Cluster has the database 0 alone".to_owned()));
        }
        let cluster = Servers::Cluster(Cluster::new(infos)?);
        Ok(Self { servers: Arc::new(cluster), keys: Keys::new(namespace, true) })
    }

    /// What each server says of itself, by its address.
    pub(super) async fn infos(&self, deadline: Instant) -> Result<Vec<(String, String)>, Error> {
        let mut infos = Vec::new();
        for server in self.servers.masters(deadline).await? {
            let info = self.servers.ask_at(&server, &redis::cmd("INFO"), deadline).await?;
            let info = String::from_utf8_lossy(&bytes(info)?).into_owned();
            infos.push((server.address().to_owned(), info));
        }
        Ok(infos)
    }

    /// `host:port` of the server; of a cluster, those of the servers that the URL names.
    pub fn address(&self) -> &str {
        self.servers.address()
    }

    fn check(&self, address: String, info: &str) -> Result<(), Error> {
        let unsuitable = |reason: String| Err(Error::Unsuitable { address, reason });
        let version = field(info, "redis_version").unwrap_or("unknown");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return unsuitable(format!("it is version {version}; 7.0 or later is needed"));
        }
        if field(info, "cluster_enabled") == Some("1") && !self.servers.is_cluster() {
            return unsuitable(
                "it is a server of a Redis Cluster; write redis+cluster:// instead of redis:// \
                 (rediss+cluster:// instead of rediss://), and name several of its servers, so \
                 that one is found when another is away"
                    .to_owned(),
            );
        }
        match field(info, "maxmemory_policy") {
            None | Some("noeviction") => Ok(()),
            Some(policy) => unsuitable(format!(
                "its maxmemory-policy is {policy}, which deletes keys of running graphs; \
                 run: redis-cli CONFIG SET maxmemory-policy noeviction"
            )),
        }
    }

    /// Another one after each start of a server.
    pub(in crate::store) async fn epoch(&self) -> Result<Epoch, Error> {
        self.servers.epoch().await
    }
}

/// The URLs of the servers that a cluster's URL names; `None` for another URL.
fn seeds(url: &str) -> Option<Vec<String>> {
    let (scheme, rest) = CLUSTER_SCHEMES
        .iter()
        .find_map(|(cluster, one)| Some((one, url.trim().strip_prefix(cluster)?)))?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    Some(hosts.split(',').map(|host| format!("{scheme}{login}{}{tail}", host.trim())).collect())
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

    #[test]
    fn a_cluster_is_named_by_some_of_its_servers() {
        for (url, address) in [
            ("redis+cluster://u:p@a:1", "a:1"),
            ("redis+cluster://u:p%2C@a:1,b", "a:1,b:6379"),
            ("redis+cluster://a,[::1]:7/0", "a:6379,::1:7"),
            ("rediss+cluster://u:p@a:1, b:2/", "a:1,b:2"),
        ] {
            assert_eq!(Redis::at(url, "").unwrap().address(), address, "{url}");
        }
        for (url, says) in [
            ("redis+cluster://u:hunter2@a:1/3", "database 0"),
            ("redis+cluster://u:hunter2@", "redis+cluster://"),
            ("redis+cluster://u:hunter2@a:1,", "redis+cluster://"),
            ("redis+cluster://u:hunter2@a:x", "redis+cluster://"),
            ("redis+cluster://u:p@hunter2#x@a:1,b:2", "percent-encoded"),
            ("redis+clusters://u:hunter2@a:1", "redis+cluster://"),
            ("redis://u:hunter2@a:1,b:2", "redis+cluster://"),
        ] {
            let error = Redis::at(url, "").unwrap_err();
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let many = "redis+cluster://a".to_owned() + &",a".repeat(SEEDS_MAX);
        assert!(Redis::at(&many, "").unwrap_err().to_string().contains("more than 64"));
    }
}
