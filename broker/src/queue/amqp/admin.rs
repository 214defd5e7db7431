//! Operations on the broker's objects. Each has a channel of its own, because the broker answers a
//! question it does not like by closing the channel. They go over the connection that consumes:
//! under an alarm the other one is deaf.

use bytes::Bytes;
use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind};
use tokio::time::{Instant, timeout};

use super::publisher::REASON_HEADER;
use super::{Amqp, topology};
use crate::limits::BROKER_DEADLINE;
use crate::queue::delivery::DeadLetter;
use crate::queue::error::QueueError;
use crate::queue::names::{DELAYS, QueueName};
use crate::queue::route::Route;

const REPLY_NOT_FOUND: u16 = 404;

impl Amqp {
    pub(in crate::queue) async fn declare(&self, queues: &[QueueName]) -> Result<(), QueueError> {
        let names = &self.0.names;
        self.with_channel(async |channel| {
            topology::declare_base(channel, names).await?;
            for route in queues.iter().flat_map(Route::all) {
                topology::declare_lane(channel, names, &route).await?;
            }
            Ok(())
        })
        .await
    }

    pub(in crate::queue) async fn depth(&self, route: &Route) -> Result<u32, QueueError> {
        let name = self.0.names.lane(route);
        let counting = self.with_channel(async |channel| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await
        });
        Ok(counting.await?.message_count())
    }

    pub(in crate::queue) async fn dead_letters(
        &self,
        max: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let name = self.0.names.dead();
        // Nothing is acknowledged: when the channel closes, all of it is back in its place.
        self.with_channel(async |channel| {
            let mut letters = Vec::new();
            while letters.len() < max {
                let options = BasicGetOptions { no_ack: false };
                let Some(got) = channel.basic_get(name.as_str().into(), options).await? else {
                    break;
                };
                let headers = got.properties.headers().clone().unwrap_or_default();
                let reason = match headers.inner().get(REASON_HEADER) {
                    Some(AMQPValue::LongString(reason)) => reason.to_string(),
                    _ => String::new(),
                };
                letters.push(DeadLetter { body: Bytes::from(got.delivery.data), reason });
            }
            Ok(letters)
        })
        .await
    }

    pub(in crate::queue) async fn purge_all(&self, queues: &[QueueName]) -> Result<(), QueueError> {
        let names = &self.0.names;
        self.with_channel(async |channel| {
            topology::declare_base(channel, names).await?;
            for route in queues.iter().flat_map(Route::all) {
                topology::declare_lane(channel, names, &route).await?;
                let name = names.lane(&route);
                channel.queue_purge(name.into(), QueuePurgeOptions::default()).await?;
                self.delete_delays(channel, &route).await?;
            }
            channel.queue_purge(names.dead().into(), QueuePurgeOptions::default()).await?;
            Ok(())
        })
        .await?;
        self.0.publisher.forget_all();
        Ok(())
    }

    pub(in crate::queue) async fn delete_all(
        &self,
        queues: &[QueueName],
    ) -> Result<(), QueueError> {
        let names = &self.0.names;
        self.with_channel(async |channel| {
            for route in queues.iter().flat_map(Route::all) {
                let name = names.lane(&route);
                channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
                self.delete_delays(channel, &route).await?;
            }
            channel.queue_delete(names.dead().into(), QueueDeleteOptions::default()).await?;
            Ok(())
        })
        .await?;
        self.0.publisher.forget_all();
        Ok(())
    }

    /// Deleting what does not exist is no error, so no list of them is needed.
    async fn delete_delays(&self, channel: &Channel, route: &Route) -> lapin::Result<()> {
        for class in DELAYS {
            let name = self.0.names.delay(route, class);
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    }

    async fn with_channel<T>(
        &self,
        operation: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T, QueueError> {
        let deadline = Instant::now() + BROKER_DEADLINE;
        let session = self.consuming().session(deadline).await.map_err(QueueError::Disconnected)?;
        let working = async {
            let channel = session.connection.create_channel().await?;
            let result = operation(&channel).await;
            if channel.status().connected() {
                channel.close(200, "OK".into()).await?;
            }
            result
        };
        let result = tokio::select! {
            result = timeout(BROKER_DEADLINE, working) => result,
            reason = session.lost() => return Err(QueueError::Disconnected(reason)),
        };
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(QueueError::TimedOut(BROKER_DEADLINE)),
        }
    }
}

fn explain(error: &lapin::Error) -> QueueError {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) if refusal.get_id() == REPLY_NOT_FOUND => {
            QueueError::NoSuchQueue(refusal.get_message().to_string())
        }
        _ if error.is_amqp_soft_error() => QueueError::Refused(error.to_string()),
        _ => QueueError::Disconnected(error.to_string()),
    }
}
