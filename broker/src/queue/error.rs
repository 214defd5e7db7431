//! What can go wrong at the queue, each with what to do about it.
//!
//! No text here ever contains a password: servers are named by host and port alone.

use std::time::Duration;

use super::names::BadName;
use super::route::Route;
use crate::line::Broken;

/// Why no connection to the broker came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used as it is.
    #[error("the AMQP URL is not usable: {0}; write amqp://user:password@host:port/vhost")]
    BadUrl(String),
    /// The namespace cannot prefix names on the broker.
    #[error("the namespace is not usable: {0}")]
    BadNamespace(#[from] BadName),
    /// Nothing answers there.
    #[error("no RabbitMQ at {server}: {reason}; is it running, and are host and port right?")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// The server refused the user name or the password.
    #[error("RabbitMQ at {server} refused user {user:?}: check the user name and password")]
    AccessRefused {
        /// Host and port.
        server: String,
        /// The user name.
        user: String,
    },
    /// The virtual host does not exist, or the user may not use it.
    #[error("RabbitMQ at {server} refused the virtual host {vhost:?}: {reason}")]
    VhostRefused {
        /// Host and port.
        server: String,
        /// The virtual host.
        vhost: String,
        /// What the server said.
        reason: String,
    },
    /// The TLS handshake failed.
    #[error(
        "TLS with {server} failed: {reason}; amqps:// needs the server's TLS port (usually 5671) \
         and a certificate this machine trusts"
    )]
    Tls {
        /// Host and port.
        server: String,
        /// What the handshake said.
        reason: String,
    },
    /// Something answered, but not in AMQP 0-9-1.
    #[error(
        "what answers at {server} does not speak AMQP 0-9-1: {reason}; \
         a port that wants TLS needs amqps://"
    )]
    NotAmqp {
        /// Host and port.
        server: String,
        /// What came instead.
        reason: String,
    },
    /// Something answered, and the connection broke before the handshake was over.
    #[error(
        "the connection to {server} broke during the AMQP handshake: {reason}; is RabbitMQ starting \
         or stopping, or is something in between? A port that wants TLS needs amqps://"
    )]
    Interrupted {
        /// Host and port.
        server: String,
        /// What the socket or the server said.
        reason: String,
    },
    /// No complete answer in time.
    #[error("{server} did not complete the AMQP handshake within {limit:?}")]
    TimedOut {
        /// Host and port.
        server: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The server let us in, but not declare what we need.
    #[error("RabbitMQ at {server} refused to declare exchanges and queues: {reason}")]
    Topology {
        /// Host and port.
        server: String,
        /// What the server said.
        reason: String,
    },
}

impl ConnectError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Interrupted { .. } | Self::TimedOut { .. })
    }
}

/// Why a message was not, or may not have been, published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The body is above the limit. Nothing was sent.
    #[error("a message of {bytes} bytes is above the limit of {limit}: split the parcel")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit, [`crate::limits::MESSAGE_BYTES_MAX`].
        limit: usize,
    },
    /// The broker has no queue for it, even after declaring it again.
    #[error("the broker has no queue for {0}, though it was just declared: who deletes it?")]
    Unroutable(Route),
    /// The broker takes no messages for lack of memory or disk.
    #[error(
        "RabbitMQ takes no messages now ({reason}): free memory or disk there; \
         publishing resumes by itself"
    )]
    Blocked {
        /// What the broker said.
        reason: String,
        /// Whether the message had been written before: then it may be queued when the alarm ends.
        sent: bool,
    },
    /// No connection, and none came back in time. Nothing was sent.
    #[error("not published, there is no connection to the broker: {0}")]
    Disconnected(String),
    /// Sent, and then neither confirmed nor refused: it may be queued or not.
    #[error("sent but not confirmed, it may or may not be queued: {0}")]
    Unconfirmed(String),
    /// The broker said no: the queue is at a length limit, or the user may not write.
    #[error("the broker refused the message: {0}; see its queue limits and permissions")]
    Refused(String),
}

impl PublishError {
    /// Whether the same message may be accepted later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::TooLarge { .. })
    }

    /// Whether the message may have been queued all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unconfirmed(_) | Self::Blocked { sent: true, .. })
    }
}

impl Broken for PublishError {
    fn refused() -> Self {
        Self::Disconnected("the line is down".to_owned())
    }

    fn unanswered() -> Self {
        Self::Unconfirmed("the line is down".to_owned())
    }
}

/// Why an operation on the broker's objects (declare, count, purge, delete, read) failed. All of
/// them are idempotent: repeat them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No connection, and none came back in time.
    #[error("there is no connection to the broker: {0}")]
    Disconnected(String),
    /// No answer in time.
    #[error("the broker did not answer within {0:?}")]
    TimedOut(Duration),
    /// A queue does not exist.
    #[error("a queue is not there, declare it first: {0}")]
    NoSuchQueue(String),
    /// The broker said no.
    #[error("the broker refused: {0}")]
    Refused(String),
}

impl QueueError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Disconnected(_) | Self::TimedOut(_))
    }
}
