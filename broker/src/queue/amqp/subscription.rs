//! The subscriptions of one session: what arrives, and what is taken from which lane.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt as _};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Amqp;
use super::link::Session;
use super::presence::{PRESENCE_PREFETCH, Presence};
use super::settle::{Applied, Ledger, Wish};
use super::topology;
use crate::limits::{ABSENT_PREFETCH, BROKER_DEADLINE, CONTROL_PREFETCH};
use crate::queue::delivery::{ConsumeOptions, Delivery, Epoch, Event, Tag};
use crate::queue::names::Names;
use crate::queue::route::{Lane, Route};

/// How a subscription ended.
pub(super) enum Ended {
    /// As was wished.
    Stopped,
    /// By a fault.
    Lost(String),
}

/// Whence something arrives.
#[derive(Clone)]
enum Origin {
    Lane(Route),
    Control,
    /// Consumers that are gone.
    Absent,
    /// What this one leaves behind.
    Presence,
}

/// What arrives.
enum Arrival {
    Message {
        from: Origin,
        number: u64,
        redelivered: bool,
        body: Bytes,
    },
    /// The broker sends no more under this consumer tag.
    End(String, Option<String>),
}

/// The consumers of one session, on two channels: control messages have their own, so that the
/// numbers of deliveries mean lanes alone.
pub(super) struct Subscription {
    epoch: Epoch,
    names: Names,
    lanes: Vec<(Route, u16)>,
    deliveries: Channel,
    control: Channel,
    arrivals: SelectAll<BoxStream<'static, Arrival>>,
    /// The consumers that should be alive, by their tags.
    alive: HashMap<String, Origin>,
    last_consumer: u64,
    ledger: Arc<Ledger>,
    presence: Option<Presence>,
}

impl Subscription {
    /// Opens channels and declares queues; consumes nothing yet.
    pub(super) async fn open(
        session: &Session,
        queue: &Amqp,
        options: &ConsumeOptions,
        epoch: Epoch,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, String> {
        let names = &queue.0.names;
        let opening = async {
            let deliveries = session.connection.create_channel().await?;
            let control = session.connection.create_channel().await?;
            topology::declare_base(&deliveries, names).await?;
            for route in options.queues.iter().flat_map(Route::all) {
                topology::declare_lane(&deliveries, names, &route).await?;
            }
            let presence = match &options.presence {
                Some(body) => {
                    let name = topology::declare_presence(&control, names).await?;
                    Some(Presence::new(queue.clone(), name, body.clone()))
                }
                None => None,
            };
            Ok::<_, lapin::Error>((deliveries, control, presence))
        };
        let (deliveries, control, presence) = within_deadline(opening).await?;
        ledger.open(epoch, deliveries.clone());
        Ok(Self {
            epoch,
            names: names.clone(),
            lanes: options.lanes().collect(),
            deliveries,
            control,
            arrivals: SelectAll::new(),
            alive: HashMap::new(),
            last_consumer: 0,
            ledger: ledger.clone(),
            presence,
        })
    }

    /// Follows the wish and hands out what arrives. Never waits for the receiver in a way that
    /// would keep a changed wish waiting.
    pub(super) async fn run(
        &mut self,
        wished: &mut watch::Receiver<Wish>,
        applied: &watch::Sender<Applied>,
        events: &mpsc::Sender<Event>,
    ) -> Ended {
        let mut pending = Some(Event::SessionStarted { epoch: self.epoch });
        wished.mark_changed();
        loop {
            let presence_due = self.presence.as_ref().map(Presence::due);
            tokio::select! {
                biased;
                Ok(()) = wished.changed() => {
                    let wish = *wished.borrow_and_update();
                    if let Err(reason) = within_deadline(self.follow(wish)).await {
                        return Ended::Lost(reason);
                    }
                    applied.send_replace(Applied::Done(wish));
                }
                () = until(presence_due) => {
                    if let Err(reason) = self.renew_presence().await {
                        return Ended::Lost(reason);
                    }
                }
                permit = events.reserve(), if pending.is_some() => match (permit, pending.take()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    _ => return Ended::Stopped,
                },
                arrival = self.arrivals.next(), if pending.is_none() => match arrival {
                    None => return Ended::Stopped,
                    Some(arrival) => match self.receive(arrival).await {
                        Ok(event) => pending = event,
                        Err(reason) => return Ended::Lost(reason),
                    },
                },
            }
        }
    }

    /// Starts and cancels consumers until they are what is wished.
    async fn follow(&mut self, wish: Wish) -> lapin::Result<()> {
        let is_lo = |from: &Origin| matches!(from, Origin::Lane(route) if route.lane == Lane::Lo);
        // Its presence ends with the session: until then others need not look after it.
        let unwanted = |from: &Origin| {
            !matches!(from, Origin::Presence) && (!wish.running || !wish.lo && is_lo(from))
        };
        let alive = std::mem::take(&mut self.alive).into_iter();
        let (cancel, keep): (HashMap<_, _>, HashMap<_, _>) =
            alive.partition(|(_, from)| unwanted(from));
        self.alive = keep;
        for (tag, from) in cancel {
            let channel = match from {
                Origin::Lane(_) | Origin::Absent => &self.deliveries,
                Origin::Control | Origin::Presence => &self.control,
            };
            channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await?;
        }
        if !wish.running {
            return Ok(());
        }
        if !self.alive.values().any(|from| matches!(from, Origin::Control)) {
            let queue = topology::declare_control(&self.control, &self.names).await?;
            self.consume(Origin::Control, &queue, CONTROL_PREFETCH).await?;
        }
        if let Some(presence) = &self.presence
            && !self.alive.values().any(|from| matches!(from, Origin::Absent))
        {
            let (own, absent) = (presence.queue().to_owned(), self.names.absent());
            if !self.alive.values().any(|from| matches!(from, Origin::Presence)) {
                self.consume(Origin::Presence, &own, PRESENCE_PREFETCH).await?;
            }
            self.consume(Origin::Absent, &absent, ABSENT_PREFETCH).await?;
        }
        for (route, prefetch) in self.lanes.clone() {
            let runs =
                self.alive.values().any(|from| matches!(from, Origin::Lane(one) if *one == route));
            if !runs && (wish.lo || route.lane == Lane::Hi) {
                let queue = self.names.lane(&route);
                self.consume(Origin::Lane(route), &queue, prefetch).await?;
            }
        }
        Ok(())
    }

    async fn consume(&mut self, from: Origin, queue: &str, prefetch: u16) -> lapin::Result<()> {
        let channel = match from {
            Origin::Lane(_) | Origin::Absent => &self.deliveries,
            Origin::Control | Origin::Presence => &self.control,
        };
        // Not global: it holds for each consumer started after it. The client's buffer has no
        // other bound.
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        self.last_consumer += 1;
        let tag = format!("{queue}.{}", self.last_consumer);
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer =
            channel.basic_consume(queue.into(), tag.as_str().into(), options, arguments).await?;
        self.alive.insert(tag.clone(), from.clone());
        let end = stream::iter([Arrival::End(tag.clone(), None)]);
        let messages = consumer.map(move |message| match message {
            Ok(message) => Arrival::Message {
                from: from.clone(),
                number: message.delivery_tag,
                redelivered: message.redelivered,
                body: Bytes::from(message.data),
            },
            Err(error) => Arrival::End(tag.clone(), Some(error.to_string())),
        });
        self.arrivals.push(messages.chain(end).boxed());
        Ok(())
    }

    /// Has the message replaced that tells of this consumer's end.
    async fn renew_presence(&mut self) -> Result<(), String> {
        let old = self.presence.as_mut().and_then(Presence::renew);
        self.drop_presence(old).await
    }

    async fn drop_presence(&mut self, number: Option<u64>) -> Result<(), String> {
        let Some(number) = number else { return Ok(()) };
        within_deadline(self.control.basic_ack(number, BasicAckOptions::default())).await
    }

    async fn receive(&mut self, arrival: Arrival) -> Result<Option<Event>, String> {
        match arrival {
            Arrival::Message { from: Origin::Lane(route), number, redelivered, body } => {
                let tag = Tag { epoch: self.epoch, number };
                self.ledger.add(tag);
                Ok(Some(Event::Delivery(Delivery { route, body, redelivered, tag })))
            }
            Arrival::Message { from: Origin::Control, number, body, .. } => {
                let ack = self.control.basic_ack(number, BasicAckOptions::default());
                within_deadline(ack).await?;
                Ok(Some(Event::Control(body)))
            }
            Arrival::Message { from: Origin::Absent, number, body, .. } => {
                let tag = Tag { epoch: self.epoch, number };
                self.ledger.add(tag);
                Ok(Some(Event::Absent { presence: body, tag }))
            }
            Arrival::Message { from: Origin::Presence, number, .. } => {
                let old = self.presence.as_mut().and_then(|presence| presence.arrived(number));
                self.drop_presence(old).await?;
                Ok(None)
            }
            // A consumer that was cancelled on purpose is not among the living any more.
            Arrival::End(tag, error) => match self.alive.remove(&tag) {
                None => Ok(None),
                Some(_) => Err(error.unwrap_or_else(|| {
                    format!("the broker ended consumer {tag}: was the queue deleted?")
                })),
            },
        }
    }
}

/// Returns at that time; never, if there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn within_deadline<T>(
    operation: impl Future<Output = lapin::Result<T>>,
) -> Result<T, String> {
    match timeout(BROKER_DEADLINE, operation).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the broker did not answer within {BROKER_DEADLINE:?}")),
    }
}
