//! The message queue on RabbitMQ. Nothing outside this folder knows the client library.
//!
//! ```text
//! amqp/hosts.rs         the URL, and whose turn it is when it names several hosts
//! amqp/endpoint.rs      one host, one attempt to connect, and the explanation when it fails
//! amqp/greeting.rs      what a broker says of itself
//! amqp/guard.rs         what the client library does not get to see; strain.rs, the pure half
//! amqp/link.rs          one connection kept up: a loop of sessions
//! amqp/topology.rs      what is declared
//! amqp/publisher.rs     publish and confirm, over the first connection
//! amqp/consumer.rs      a consumer, over the second: reconnects, and says so
//! amqp/subscription.rs  what one session of a consumer takes from which lane
//! amqp/presence.rs      what a consumer leaves behind for the others
//! amqp/settle.rs        acknowledgements
//! ```
//!
//! Two connections, because a broker under a memory alarm stops reading from those that publish:
//! acknowledgements, which end the alarm, must go another way.

mod admin;
mod consumer;
mod endpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod greeting;
mod guard;
mod hosts;
mod link;
mod presence;
mod publisher;
mod settle;
mod strain;
mod subscription;
mod topology;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Settings;
use super::delivery::ConsumeOptions;
use super::error::{ConnectError, PublishError};
use super::names::{Names, delay_class};
use super::route::Route;
pub(super) use consumer::AmqpConsumer;
pub use greeting::{Greeting, greeting};
use hosts::Hosts;
use link::{Link, LinkSettings};
use publisher::{Publisher, Target};
pub(super) use settle::AmqpSettler;

/// A client of RabbitMQ. The semantics of each method are those of [`Queue`](super::Queue).
#[derive(Clone)]
pub struct Amqp(Arc<Inner>);

struct Inner {
    hosts: Hosts,
    names: Names,
    role: String,
    publisher: Publisher,
    /// The second connection, made when it is first needed: a client that only publishes has one.
    consuming: OnceLock<Link>,
    epochs: AtomicU64,
    closed: CancellationToken,
    _close_on_drop: DropGuard,
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp")
            .field("server", &self.0.hosts.server())
            .field("exchange", &self.0.names.exchange())
            .finish_non_exhaustive()
    }
}

fn connection_name(role: &str, purpose: &str) -> String {
    format!("bolthole {role} {} {purpose}", std::process::id())
}

impl Amqp {
    pub(super) async fn connect(url: &str, settings: Settings) -> Result<Self, ConnectError> {
        let hosts = Hosts::parse(url)?;
        let names = Names::new(&settings.namespace)?.of_kind(hosts.quorum());
        let closed = CancellationToken::new();
        let link = LinkSettings {
            hosts: hosts.clone(),
            names: names.clone(),
            name: connection_name(&settings.role, "publish"),
            closed: closed.clone(),
        };
        let opened = link::open_first(&link).await?;
        let link = Link::start(link, Some(opened));
        Ok(Self(Arc::new(Inner {
            hosts,
            publisher: Publisher::new(link, names.clone(), &settings),
            names,
            role: settings.role,
            consuming: OnceLock::new(),
            epochs: AtomicU64::new(0),
            _close_on_drop: closed.clone().drop_guard(),
            closed,
        })))
    }

    /// The connection that never publishes.
    fn consuming(&self) -> &Link {
        self.0.consuming.get_or_init(|| {
            let settings = LinkSettings {
                hosts: self.0.hosts.clone(),
                names: self.0.names.clone(),
                name: connection_name(&self.0.role, "consume"),
                closed: self.0.closed.clone(),
            };
            Link::start(settings, None)
        })
    }

    pub(super) async fn publish(&self, route: &Route, body: Bytes) -> Result<(), PublishError> {
        self.0.publisher.publish(Target::Lane(route.clone()), body).await
    }

    pub(super) async fn publish_all(
        &self,
        messages: Vec<(Route, Bytes)>,
    ) -> Vec<Result<(), PublishError>> {
        let messages = messages.into_iter().map(|(route, body)| (Target::Lane(route), body));
        self.0.publisher.publish_all(messages.collect()).await
    }

    pub(super) async fn publish_delayed(
        &self,
        route: &Route,
        body: Bytes,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let target = Target::Delayed(route.clone(), delay_class(delay));
        self.0.publisher.publish(target, body).await
    }

    pub(super) async fn broadcast(&self, body: Bytes) -> Result<(), PublishError> {
        self.0.publisher.publish(Target::Control, body).await
    }

    pub(super) async fn dead_letter(&self, body: Bytes, reason: &str) -> Result<(), PublishError> {
        self.0.publisher.publish(Target::Dead(reason.into()), body).await
    }

    pub(super) fn consume(&self, options: ConsumeOptions) -> AmqpConsumer {
        consumer::start(self.clone(), options)
    }

    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.0.publisher.blocked()
    }

    pub(super) async fn close(&self) {
        self.0.closed.cancel();
        self.0.publisher.closed().await;
        if let Some(link) = self.0.consuming.get() {
            link.closed().await;
        }
    }
}
