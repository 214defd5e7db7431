//! The hosts of one broker: several when it is a cluster, all with the same login.
//!
//! A process keeps to one of them for as long as it can, and goes to the next when that one is away;
//! which is the first is random, so that a fleet is spread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::Connection;
use tokio::time::timeout;

use super::endpoint::Endpoint;
use crate::clock::random_u64;
use crate::limits::CONNECT_DEADLINE;
use crate::queue::error::ConnectError;

/// Hosts that a URL may name.
const HOSTS_MAX: usize = 16;
/// The least time that a host has to answer, however many there are.
const TURN_MIN: Duration = Duration::from_secs(2);
/// What a URL says of the kind of queues.
const PARAMETER: &str = "queues=";

/// A parsed URL. Clones go to the same host.
#[derive(Clone)]
pub(super) struct Hosts {
    endpoints: Arc<[Endpoint]>,
    turn: Arc<AtomicUsize>,
    server: Arc<str>,
    quorum: bool,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hosts({})", self.server)
    }
}

impl Hosts {
    /// Parses `amqp://user:password@host:port,host:port/vhost`. With several hosts the lanes are
    /// quorum queues, of which several hosts have a copy, unless `?queues=classic` says otherwise;
    /// with one host they are classic, unless `?queues=quorum` does.
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let (url, kind) = without_kind(url)?;
        let endpoints: Vec<Endpoint> =
            each(&url).iter().map(|url| Endpoint::parse(url)).collect::<Result<_, _>>()?;
        if endpoints.len() > HOSTS_MAX {
            return Err(ConnectError::BadUrl(format!("it names more than {HOSTS_MAX} hosts")));
        }
        let names: Vec<&str> = endpoints.iter().map(Endpoint::server).collect();
        let first = usize::try_from(random_u64() % endpoints.len().max(1) as u64).unwrap_or(0);
        Ok(Self {
            server: names.join(",").into(),
            turn: Arc::new(AtomicUsize::new(first)),
            quorum: kind.unwrap_or(endpoints.len() > 1),
            endpoints: endpoints.into(),
        })
    }

    /// Hosts and ports.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Whether shared queues have copies on several hosts.
    pub(super) fn quorum(&self) -> bool {
        self.quorum
    }

    /// All hosts, from the one whose turn it is.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &Endpoint> {
        let first = self.turn.load(Ordering::Relaxed) % self.endpoints.len().max(1);
        self.endpoints[first..].iter().chain(&self.endpoints[..first])
    }

    /// The next connection is to another host.
    pub(super) fn turn_away(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// One attempt at each host, until one lets us in: what is wrong with the URL is so at all.
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, ConnectError> {
        let count = u32::try_from(self.endpoints.len()).unwrap_or(1).max(1);
        let limit = (CONNECT_DEADLINE / count).max(TURN_MIN);
        let mut last = ConnectError::BadUrl("it has no host".into());
        for endpoint in self.in_turn().cloned().collect::<Vec<_>>() {
            let connected = timeout(limit, endpoint.connect(name)).await;
            let server = endpoint.server().to_owned();
            match connected.unwrap_or(Err(ConnectError::TimedOut { server, limit })) {
                Ok(connection) => return Ok(connection),
                Err(error) if error.is_retryable() => last = error,
                Err(error) => return Err(error),
            }
            self.turn_away();
        }
        Err(last)
    }
}

/// The URL without what it says of the kind of queues; whether that is quorum.
fn without_kind(url: &str) -> Result<(String, Option<bool>), ConnectError> {
    let Some((rest, query)) = url.split_once('?') else { return Ok((url.to_owned(), None)) };
    let (ours, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|part| part.starts_with(PARAMETER));
    let kind = match ours.last().map(|part| &part[PARAMETER.len()..]) {
        None => None,
        Some("quorum") => Some(true),
        Some("classic") => Some(false),
        Some(_) => {
            return Err(ConnectError::BadUrl("its queues are neither quorum nor classic".into()));
        }
    };
    let query = others.join("&");
    let url = if query.is_empty() { rest.to_owned() } else { format!("{rest}?{query}") };
    Ok((url, kind))
}

/// A URL for each host.
fn each(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    hosts.split(',').map(|host| format!("{scheme}://{login}{}{tail}", host.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hosts_are_one_broker() {
        for (url, server, quorum) in [
            ("amqp://u:p@a:1/v", "a:1", false),
            ("amqp://u:p@a:1/v?queues=quorum", "a:1", true),
            ("amqp://u:p%2C@a:1,b/v", "a:1,b:5672", true),
            ("amqps://a, [::1]:7", "a:5671,[::1]:7", true),
            ("amqp://u:p@a,b/v?heartbeat=30&queues=classic", "a:5672,b:5672", false),
        ] {
            let hosts = Hosts::parse(url).unwrap();
            assert_eq!((hosts.server(), hosts.quorum()), (server, quorum), "{url}");
        }
    }

    #[test]
    fn hosts_take_turns() {
        let hosts = Hosts::parse("amqp://a,b,c").unwrap();
        let order = || -> Vec<String> { hosts.in_turn().map(|one| one.server().into()).collect() };
        let mut before = order();
        hosts.turn_away();
        before.rotate_left(1);
        assert_eq!(order(), before);
    }

    #[test]
    fn bad_urls_are_refused_without_their_password() {
        let many = "amqp://u:hunter2@a".to_owned() + &",a".repeat(HOSTS_MAX);
        for url in [
            "amqp://u:hunter2@a,",
            "amqp://u:hunter2@a,:1",
            "amqp://u:hunter2@a,b:port",
            "amqp://u:1?hunter2@a,b",
            "amqp://u:1?queues=hunter2@a,b",
            "amqp://u:hunter2@a,b?queues=lazy",
            &many,
        ] {
            let error = Hosts::parse(url).unwrap_err();
            assert!(matches!(error, ConnectError::BadUrl(_)), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let hosts = Hosts::parse("amqp://u:hunter2@a,b").unwrap();
        assert_eq!(format!("{hosts:?}"), "Hosts(a:5672,b:5672)");
    }
}
