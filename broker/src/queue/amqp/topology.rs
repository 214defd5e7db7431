//! What is declared on the broker. Every declaration can be repeated.
//!
//! With several hosts, what processes share are quorum queues: a majority of the hosts has each, and
//! goes on when one dies. What one session has for itself dies with its host, as the session does.
//!
//! Arguments are explicit and few, so that every RabbitMQ from 3.10 to 4.3 takes them: an
//! `x-queue-type`, because a virtual host may have another default; no lazy mode, no queue version,
//! no delivery limit that matters, no shared queue that is not durable.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use crate::clock::random_u64;
use crate::limits::{ABSENT_MAX, CONTROL_BACKLOG_MAX, DEAD_LETTERS_MAX, PRESENCE_QUEUE_EXPIRES};
use crate::queue::names::Names;
use crate::queue::route::Route;

/// A delay queue that nobody declares for this long is removed *with what it holds*. Publishers
/// declare theirs anew every [`DELAY_RENEW`], which is what counts as use.
const DELAY_EXPIRES: Duration = Duration::from_secs(600);

/// How long a delay queue is taken to be there. With the longest delay added, far below
/// [`DELAY_EXPIRES`].
pub(super) const DELAY_RENEW: Duration = Duration::from_secs(60);

type Arguments<'a> = &'a [(&'a str, AMQPValue)];

/// How often a quorum queue gives a message before it drops it: as good as for ever.
const DELIVERIES_MAX: i32 = i32::MAX;

/// The kind of a queue that one process has for itself.
const OWN: &str = "classic";

fn table(kind: &str, arguments: Arguments<'_>) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn long(number: impl TryInto<i64>) -> AMQPValue {
    AMQPValue::LongLongInt(number.try_into().unwrap_or(i64::MAX))
}

/// A durable queue that processes share, bound to the main exchange by its own name.
async fn queue(
    channel: &Channel,
    names: &Names,
    name: &str,
    arguments: Arguments<'_>,
) -> lapin::Result<()> {
    queue_of(names.kind(), channel, names, name, arguments).await
}

async fn queue_of(
    kind: &str,
    channel: &Channel,
    names: &Names,
    name: &str,
    arguments: Arguments<'_>,
) -> lapin::Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = table(kind, arguments);
    if kind != OWN {
        // With a limit, what is given back keeps its place; without one, some brokers put it last, and
        // others have a limit of their own.
        arguments.insert("x-delivery-limit".into(), long(DELIVERIES_MAX));
    }
    channel.queue_declare(name.into(), durable, arguments).await?;
    bind(channel, name, names.exchange()).await
}

async fn bind(channel: &Channel, queue: &str, exchange: &str) -> lapin::Result<()> {
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), queue.into(), options, arguments).await
}

/// What all share: both exchanges and the queue of dead letters.
pub(super) async fn declare_base(channel: &Channel, names: &Names) -> lapin::Result<()> {
    let control = names.control_exchange();
    for (name, kind) in
        [(names.exchange(), ExchangeKind::Direct), (control.as_str(), ExchangeKind::Fanout)]
    {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(name.into(), kind, durable, FieldTable::default()).await?;
    }
    queue(channel, names, &names.dead(), &[("x-max-length", long(DEAD_LETTERS_MAX))]).await
}

/// One lane.
pub(super) async fn declare_lane(
    channel: &Channel,
    names: &Names,
    route: &Route,
) -> lapin::Result<()> {
    queue(channel, names, &names.lane(route), &[]).await
}

/// The queue that holds messages for a lane back. All its messages have the same time to live,
/// because only the head of a queue expires.
pub(super) async fn declare_delay(
    channel: &Channel,
    names: &Names,
    route: &Route,
    class: Duration,
) -> lapin::Result<()> {
    let arguments = [
        ("x-message-ttl", long(class.as_millis())),
        ("x-expires", long(DELAY_EXPIRES.as_millis())),
        ("x-dead-letter-exchange", AMQPValue::LongString(names.exchange().into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString(names.lane(route).into())),
    ];
    queue(channel, names, &names.delay(route, class), &arguments).await
}

/// The queue of one session's presence. What is in it expires the moment that nobody holds it, and
/// goes to the queue from which others are told. Durable, because brokers give up shared queues that
/// are not; it removes itself once it has no consumer. Returns its name.
pub(super) async fn declare_presence(channel: &Channel, names: &Names) -> lapin::Result<String> {
    queue(channel, names, &names.absent(), &[("x-max-length", long(ABSENT_MAX))]).await?;
    let name = names.presence(random_u64());
    let arguments = [
        ("x-message-ttl", long(0)),
        ("x-expires", long(PRESENCE_QUEUE_EXPIRES.as_millis())),
        ("x-dead-letter-exchange", AMQPValue::LongString(names.exchange().into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString(names.absent().into())),
    ];
    queue_of(OWN, channel, names, &name, &arguments).await?;
    Ok(name)
}

/// A consumer's own control queue, which goes with its connection. Returns its name.
pub(super) async fn declare_control(channel: &Channel, names: &Names) -> lapin::Result<String> {
    let name = names.control_queue(random_u64());
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let arguments = table(OWN, &[("x-max-length", long(CONTROL_BACKLOG_MAX))]);
    channel.queue_declare(name.as_str().into(), options, arguments).await?;
    bind(channel, &name, &names.control_exchange()).await?;
    Ok(name)
}
