//! Publishing: declare, send, wait for the confirm, and say exactly what is known.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use super::endpoint::is_away;
use super::link::{Link, Session};
use super::topology;
use crate::failpoint::{self, Point};
use crate::limits::UNCONFIRMED_MAX;
use crate::queue::error::PublishError;
use crate::queue::names::Names;
use crate::queue::route::Route;
use crate::queue::{Settings, check_size};

/// The header that says why a letter is dead.
pub(super) const REASON_HEADER: &str = "x-bolthole-reason";
// A broker may add how often it has given the message: all of it stays below PROPERTIES_BYTES_MAX.
const REASON_BYTES_MAX: usize = 224;
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;
const REPLY_ACCESS_REFUSED: u16 = 403;

/// Where a message goes.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Lane(Route),
    Delayed(Route, Duration),
    /// With the reason.
    Dead(String),
    Control,
    /// To the queue of this name, which its consumer has declared.
    Presence(String),
}

/// How one sending of a message ended.
enum Outcome {
    Confirmed,
    /// The broker had no queue for it.
    Returned,
    /// It never left.
    NotSent(String),
    Failed(PublishError),
}

/// Publishes over one link. The window of unconfirmed messages is shared by all callers.
pub(super) struct Publisher {
    link: Link,
    names: Names,
    persistent: bool,
    deadline: Duration,
    window: Arc<Semaphore>,
    /// What is known to be declared: in which session, and when.
    declared: Mutex<HashMap<String, (u64, Instant)>>,
}

impl Publisher {
    pub(super) fn new(link: Link, names: Names, settings: &Settings) -> Self {
        Self {
            link,
            names,
            persistent: settings.persistent,
            deadline: settings.publish_deadline,
            window: Arc::new(Semaphore::new(UNCONFIRMED_MAX)),
            declared: Mutex::default(),
        }
    }

    /// Returns once the connection is closed.
    pub(super) async fn closed(&self) {
        self.link.closed().await;
    }

    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.link.blocked()
    }

    /// Publishes one message.
    pub(super) async fn publish(&self, target: Target, body: Bytes) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.deadline;
        let permit = self.permit(deadline).await?;
        let session = self.ready(&target, deadline).await?;
        self.send(permit, session, target, body, deadline).await
    }

    /// Publishes many, in order. The caller waits only when the window is full and at the end.
    pub(super) async fn publish_all(
        &self,
        messages: Vec<(Target, Bytes)>,
    ) -> Vec<Result<(), PublishError>> {
        let mut results: Vec<_> = messages.iter().map(|_| Ok(())).collect();
        let mut in_flight = FuturesUnordered::new();
        // The batch waits for a connection once, not once for each message.
        let mut patience = self.deadline;
        for (index, (target, body)) in messages.into_iter().enumerate() {
            let deadline = Instant::now() + patience;
            let ready = async {
                check_size(&body)?;
                let permit = self.permit(deadline).await?;
                Ok((permit, self.ready(&target, deadline).await?))
            };
            let mut waiting = Box::pin(ready);
            let ready = loop {
                tokio::select! {
                    biased;
                    ready = &mut waiting => break ready,
                    Some((index, result)) = in_flight.next() => results[index] = result,
                }
            };
            drop(waiting);
            let (permit, session) = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    if matches!(error, PublishError::Disconnected(_)) {
                        patience = Duration::ZERO;
                    }
                    results[index] = Err(error);
                    continue;
                }
            };
            patience = self.deadline;
            let deadline = Instant::now() + patience;
            let sending = self.send(permit, session, target.clone(), body, deadline);
            let mut sending = Box::pin(async move { (index, sending.await) });
            // The first poll hands the frames over: it decides the order.
            match futures_util::poll!(&mut sending) {
                Poll::Ready((index, result)) => results[index] = result,
                Poll::Pending => in_flight.push(sending),
            }
        }
        while let Some((index, result)) = in_flight.next().await {
            results[index] = result;
        }
        results
    }

    /// Room in the window. Under an alarm no confirm comes that could make room.
    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, PublishError> {
        let mut blocked = self.link.blocked();
        let full = || PublishError::Disconnected("the broker confirms nothing".into());
        tokio::select! {
            biased;
            reason = until_blocked(&mut blocked) => Err(PublishError::Blocked { reason, sent: false }),
            permit = self.window.clone().acquire_owned() => permit.map_err(|_| full()),
            () = sleep_until(deadline) => Err(full()),
        }
    }

    /// A living session in which the target is declared.
    async fn ready(
        &self,
        target: &Target,
        deadline: Instant,
    ) -> Result<Arc<Session>, PublishError> {
        let session = self.link.session(deadline).await.map_err(PublishError::Disconnected)?;
        self.ensure_declared(&session, target, deadline).await?;
        Ok(session)
    }

    /// Sends until it is known what became of the message, or the deadline passes. The frames of
    /// the first attempt are handed over in the first poll.
    async fn send(
        &self,
        permit: OwnedSemaphorePermit,
        mut session: Arc<Session>,
        target: Target,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let mut returned = false;
        loop {
            match self.attempt(&session, &target, &body, deadline).await {
                Outcome::Confirmed => break,
                Outcome::Failed(error) => return Err(error),
                Outcome::Returned if returned => return Err(self.unroutable(&target)),
                Outcome::Returned => {
                    returned = true;
                    self.forget(&target);
                }
                Outcome::NotSent(reason) => session.fail(reason),
            }
            session = self.ready(&target, deadline).await?;
        }
        drop(permit);
        Ok(())
    }

    async fn attempt(
        &self,
        session: &Session,
        target: &Target,
        body: &Bytes,
        deadline: Instant,
    ) -> Outcome {
        let mut blocked = self.link.blocked();
        // A second look, after the waits before: what is sent into a blocked connection stays in
        // it, and is published at some later time.
        if let Some(reason) = blocked.borrow().clone() {
            return Outcome::Failed(PublishError::Blocked { reason, sent: false });
        }
        if !session.channel.status().connected() {
            return Outcome::NotSent("the channel is closed".into());
        }
        let (exchange, key) = self.address(target);
        // Control messages are hints: none may listen.
        let mandatory = !matches!(target, Target::Control);
        let publishing = session.channel.basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions { mandatory, immediate: false },
            body,
            self.properties(target),
        );
        let mut confirmed = pin!(async {
            match publishing.await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            }
        });
        // Not left to `select!`, which may put a poll off when the task has used its budget up.
        if let Poll::Ready(answer) = futures_util::poll!(&mut confirmed) {
            return judge(session, answer);
        }
        failpoint::reach(Point::PublishUnconfirmed).await;
        tokio::select! {
            biased;
            answer = &mut confirmed => judge(session, answer),
            reason = until_blocked(&mut blocked) => {
                Outcome::Failed(PublishError::Blocked { reason, sent: true })
            }
            reason = session.lost() => Outcome::Failed(PublishError::Unconfirmed(reason)),
            () = sleep_until(deadline) => {
                let text = format!("no answer within {:?}", self.deadline);
                Outcome::Failed(PublishError::Unconfirmed(text))
            }
        }
    }

    fn address(&self, target: &Target) -> (String, String) {
        let exchange = self.names.exchange().to_owned();
        match target {
            Target::Lane(route) => (exchange, self.names.lane(route)),
            Target::Delayed(route, class) => (exchange, self.names.delay(route, *class)),
            Target::Dead(_) => (exchange, self.names.dead()),
            Target::Control => (self.names.control_exchange(), String::new()),
            Target::Presence(queue) => (exchange, queue.clone()),
        }
    }

    fn properties(&self, target: &Target) -> BasicProperties {
        let Target::Dead(reason) = target else {
            let mode = if self.persistent { PERSISTENT } else { TRANSIENT };
            return BasicProperties::default().with_delivery_mode(mode);
        };
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut headers = FieldTable::default();
        headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason[..end].into()));
        // Evidence is to survive a restart, whatever the setting.
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers)
    }

    /// Declares what the target needs, unless this session knows that it is there.
    async fn ensure_declared(
        &self,
        session: &Session,
        target: &Target,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let (_, key) = self.address(target);
        let needs_none = matches!(target, Target::Control | Target::Presence(_));
        if needs_none || self.is_declared(session, target, &key) {
            return Ok(());
        }
        let before = Instant::now();
        let declaring = async {
            let channel = session.connection.create_channel().await?;
            topology::declare_base(&channel, &self.names).await?;
            match target {
                Target::Lane(route) => {
                    topology::declare_lane(&channel, &self.names, route).await?;
                }
                Target::Delayed(route, class) => {
                    topology::declare_lane(&channel, &self.names, route).await?;
                    topology::declare_delay(&channel, &self.names, route, *class).await?;
                }
                Target::Dead(_) | Target::Control | Target::Presence(_) => {}
            }
            // Only a courtesy: the channel goes with the connection at the latest.
            let _ = channel.close(200, "OK".into()).await;
            Ok::<_, lapin::Error>(())
        };
        let mut blocked = self.link.blocked();
        tokio::select! {
            biased;
            declared = declaring => declared.map_err(|error| refused(session, &error))?,
            reason = until_blocked(&mut blocked) => {
                return Err(PublishError::Blocked { reason, sent: false });
            }
            reason = session.lost() => return Err(PublishError::Disconnected(reason)),
            () = sleep_until(deadline) => {
                return Err(PublishError::Disconnected("declaring got no answer".into()));
            }
        }
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.insert(key, (session.number, before));
        Ok(())
    }

    fn is_declared(&self, session: &Session, target: &Target, key: &str) -> bool {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.get(key).is_some_and(|(number, when)| {
            let fresh = when.elapsed() < topology::DELAY_RENEW;
            *number == session.number && (fresh || !matches!(target, Target::Delayed(..)))
        })
    }

    fn forget(&self, target: &Target) {
        let (_, key) = self.address(target);
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Forgets all that is known to be declared.
    pub(super) fn forget_all(&self) {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn unroutable(&self, target: &Target) -> PublishError {
        match target {
            Target::Lane(route) | Target::Delayed(route, _) => {
                PublishError::Unroutable(route.clone())
            }
            Target::Dead(_) | Target::Control | Target::Presence(_) => {
                PublishError::Refused(format!("nothing is bound to {}", self.names.exchange()))
            }
        }
    }
}

/// Returns when the connection is blocked, with the reason; never, if it never is.
async fn until_blocked(blocked: &mut watch::Receiver<Option<String>>) -> String {
    let reason = match blocked.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => None,
    };
    match reason {
        Some(reason) => reason,
        // The link is gone, and with it what could block.
        None => std::future::pending().await,
    }
}

fn judge(session: &Session, answer: lapin::Result<Confirmation>) -> Outcome {
    match answer {
        Ok(Confirmation::Ack(None)) => Outcome::Confirmed,
        // A message that no queue took is returned *and* acknowledged.
        Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Outcome::Returned,
        Ok(Confirmation::Nack(None)) => {
            session.refused();
            Outcome::Failed(PublishError::Refused("it answered basic.nack".into()))
        }
        Ok(Confirmation::NotRequested) => {
            session.fail("the channel is not in confirm mode");
            Outcome::Failed(PublishError::Unconfirmed("the broker was not asked to".into()))
        }
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(refusal) if refusal.get_id() == REPLY_ACCESS_REFUSED => {
                session.fail(error.to_string());
                Outcome::Failed(PublishError::Refused(refusal.get_message().to_string()))
            }
            _ => {
                session.fail(error.to_string());
                Outcome::Failed(PublishError::Unconfirmed(error.to_string()))
            }
        },
    }
}

/// What a failed declaration means for the message that needed it.
fn refused(session: &Session, error: &lapin::Error) -> PublishError {
    if error.is_amqp_soft_error() && !is_away(error) {
        return PublishError::Refused(error.to_string());
    }
    // On this connection other lanes may go on.
    if !is_away(error) {
        session.fail(error.to_string());
    }
    PublishError::Disconnected(error.to_string())
}
