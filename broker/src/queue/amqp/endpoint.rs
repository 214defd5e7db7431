//! Where the broker is, and what went wrong on the way there.
//!
//! The password is in the parsed URL alone. It is in no error and no `Debug` text, because both
//! name the server by host and port.

use std::fmt;
use std::io;
use std::sync::Once;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::guard;
use crate::limits::{AMQP_FRAME_BYTES, AMQP_FRAME_BYTES_MIN, CONNECT_DEADLINE, HEARTBEAT_SECONDS};
use crate::queue::error::ConnectError;

/// An operator closes connections, or the server stops.
const REPLY_CONNECTION_FORCED: u16 = 320;
const REPLY_ACCESS_REFUSED: u16 = 403;
/// Said of a declaration when the one host that has the queue is away, and of nothing else that is
/// declared.
const REPLY_NOT_FOUND: u16 = 404;
const REPLY_NOT_ALLOWED: u16 = 530;
/// Said of a virtual host that is being started, among others.
const REPLY_INTERNAL_ERROR: u16 = 541;

/// How long to look whether anything listens, to explain a failure.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// A parsed URL of one host.
#[derive(Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
    /// Host and port, for people.
    server: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.server)
    }
}

impl Endpoint {
    /// Parses an AMQP URL. An absent or empty virtual host is `/`.
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let bad = |reason: &str| ConnectError::BadUrl(reason.into());
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        if !matches!(scheme, "amqp" | "amqps") {
            return Err(bad("its scheme is neither amqp nor amqps"));
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // The parser would take what stands before such a character for host and port.
        if tail.contains('@') {
            return Err(bad("/, ? and # in a user name or password must be percent-encoded"));
        }
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() || host.starts_with(':') {
            return Err(bad("it has no host"));
        }
        let mut uri: AMQPUri = url.parse().map_err(|reason: String| bad(&reason))?;
        // The parser takes an IPv6 address for no host at all.
        if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            uri.authority.host = address.into();
        }
        if uri.vhost.is_empty() {
            uri.vhost = "/".into();
        }
        uri.query.heartbeat = uri.query.heartbeat.or(Some(HEARTBEAT_SECONDS));
        let frame = uri.query.frame_max.unwrap_or(AMQP_FRAME_BYTES);
        uri.query.frame_max = Some(frame.clamp(AMQP_FRAME_BYTES_MIN, AMQP_FRAME_BYTES));
        let server = match &uri.authority {
            authority if authority.host.contains(':') => {
                format!("[{}]:{}", authority.host, authority.port)
            }
            authority => format!("{}:{}", authority.host, authority.port),
        };
        Ok(Self { uri, server })
    }

    /// Host and port.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// With or without TLS.
    pub(super) fn scheme(&self) -> AMQPScheme {
        self.uri.scheme.clone()
    }

    /// Host and port, to connect to.
    pub(super) fn address(&self) -> (&str, u16) {
        (&self.uri.authority.host, self.uri.authority.port)
    }

    /// One attempt to connect, within [`CONNECT_DEADLINE`]. The name is shown on the broker.
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, ConnectError> {
        install_crypto();
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = guard::connect(self.uri.clone(), properties);
        match timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.explain(&error).await),
            Err(_) => {
                Err(ConnectError::TimedOut { server: self.server.clone(), limit: CONNECT_DEADLINE })
            }
        }
    }

    async fn explain(&self, error: &lapin::Error) -> ConnectError {
        let server = self.server.clone();
        if let ErrorKind::ProtocolError(refusal) = error.kind() {
            let reason = refusal.get_message().to_string();
            return match refusal.get_id() {
                REPLY_ACCESS_REFUSED => {
                    let user = self.uri.authority.userinfo.username.clone();
                    ConnectError::AccessRefused { server, user }
                }
                REPLY_NOT_ALLOWED => {
                    ConnectError::VhostRefused { server, vhost: self.uri.vhost.clone(), reason }
                }
                _ if breaks(error) => ConnectError::Interrupted { server, reason },
                _ => ConnectError::NotAmqp { server, reason },
            };
        }
        // The library reports all that a socket can do as one kind; a second look tells whether
        // anything listens at all.
        let probe = TcpStream::connect(self.address());
        match timeout(PROBE_DEADLINE, probe).await {
            Ok(Err(refused)) => ConnectError::Unreachable { server, reason: refused.to_string() },
            Err(_) => ConnectError::Unreachable { server, reason: "it does not answer".into() },
            Ok(Ok(_)) if breaks(error) => {
                ConnectError::Interrupted { server, reason: error.to_string() }
            }
            Ok(Ok(_)) if self.uri.scheme == AMQPScheme::AMQPS => {
                ConnectError::Tls { server, reason: error.to_string() }
            }
            Ok(Ok(_)) => ConnectError::NotAmqp { server, reason: error.to_string() },
        }
    }
}

/// Whether an error tells of a connection that has ended and may as well not end the next time.
pub(super) fn breaks(error: &lapin::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        ErrorKind::IOError(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        ErrorKind::InvalidConnectionState(_) => true,
        ErrorKind::ProtocolError(said) => {
            matches!(said.get_id(), REPLY_CONNECTION_FORCED | REPLY_INTERNAL_ERROR)
        }
        _ => false,
    }
}

/// Whether a declaration was refused because the host of a cluster that has the queue is away. It
/// comes back, or somebody takes it out of the cluster: then the queue is declared elsewhere.
pub(super) fn is_away(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said) if said.get_id() == REPLY_NOT_FOUND)
}

/// Chooses the process's TLS provider. An error means that somebody chose before, which is as good.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_understood() {
        let endpoint = Endpoint::parse("amqp://u:p%40ss@broker:5673/team%2fa").unwrap();
        assert_eq!(endpoint.server(), "broker:5673");
        assert_eq!(endpoint.uri.vhost, "team/a");
        assert_eq!(endpoint.uri.query.heartbeat, Some(HEARTBEAT_SECONDS));
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker:5672/%2f"] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!((endpoint.server(), endpoint.uri.vhost.as_str()), ("broker:5672", "/"));
        }
        assert_eq!(Endpoint::parse("amqps://[::1]/").unwrap().server(), "[::1]:5671");
        let endpoint = Endpoint::parse("amqp://broker?heartbeat=30").unwrap();
        assert_eq!(endpoint.uri.query.heartbeat, Some(30));
        for (asked, frame) in [("0", 4096), ("8192", 8192), ("131072", AMQP_FRAME_BYTES)] {
            let endpoint = Endpoint::parse(&format!("amqp://broker?frame_max={asked}")).unwrap();
            assert_eq!(endpoint.uri.query.frame_max, Some(frame));
        }
        assert_eq!(
            Endpoint::parse("amqp://u").unwrap().uri.query.frame_max,
            Some(AMQP_FRAME_BYTES)
        );
    }

    #[test]
    fn bad_urls_are_refused_without_their_password() {
        for url in [
            "",
            "localhost:5672",
            "http://u:hunter2@broker",
            "amqp:/u:hunter2@broker",
            "amqp://u:hunter2@broker:port",
            "amqp://u:hunter2@broker:70000",
            "amqp://u:hunter2@",
            "amqp://u:hunter2@:5672",
            "amqp://u:1#hunter2@broker",
            "amqp://u:1/hunter2@broker",
            "amqp://u:hunter2@broker?heartbeat=often",
        ] {
            let error = Endpoint::parse(url).unwrap_err();
            assert!(matches!(error, ConnectError::BadUrl(_)), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let endpoint = Endpoint::parse("amqp://u:hunter2@broker").unwrap();
        assert_eq!(format!("{endpoint:?}"), "Endpoint(broker:5672)");
    }
}
