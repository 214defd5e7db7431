//! One connection to the broker, kept up: a loop of sessions.
//!
//! A session ends at the first error of any kind and is never repaired; the next one starts from
//! nothing. The library's own recovery stays off, because what was in flight is then judged by it
//! and not by us.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::endpoint::{breaks, is_away};
use super::hosts::Hosts;
use super::topology;
use crate::limits::CONNECT_DEADLINE;
use crate::queue::backoff::backoff;
use crate::queue::error::ConnectError;
use crate::queue::names::Names;

/// How often a session looks at its connection's state, should no event tell of its end.
const LOOK: Duration = Duration::from_millis(500);
/// How long a closing handshake may take. A blocked connection never completes it.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// A session in which a message is refused ends, but lives this long at least: a queue that refuses
/// everything must not keep the others from being published to.
const REFUSED_LIFE: Duration = Duration::from_secs(2);

/// One life of a connection.
pub(super) struct Session {
    /// Tells this session from others of the same link.
    pub(super) number: u64,
    pub(super) connection: Connection,
    /// In confirm mode.
    pub(super) channel: Channel,
    began: Instant,
    lost: CancellationToken,
    reason: OnceLock<String>,
}

impl Session {
    /// Ends the session, for the first reason that is given.
    pub(super) fn fail(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
        self.lost.cancel();
    }

    /// Notes a `basic.nack`. It may be the channel's fault: until version 3.12 RabbitMQ refuses for
    /// ever what a channel sends to a quorum queue, if its leader had just died when the channel first
    /// did so. Only a new one looks for the new leader.
    pub(super) fn refused(&self) {
        if self.began.elapsed() >= REFUSED_LIFE {
            self.fail("the broker refuses what is published");
        }
    }

    /// Returns once the session has ended, with the reason.
    pub(super) async fn lost(&self) -> String {
        self.lost.cancelled().await;
        self.reason.get().cloned().unwrap_or_else(|| "the connection was closed".into())
    }

    fn is_up(&self) -> bool {
        !self.lost.is_cancelled()
    }
}

#[derive(Clone)]
enum State {
    Down(String),
    Up(Arc<Session>),
    Closed,
}

/// What a link is made of.
#[derive(Clone)]
pub(super) struct LinkSettings {
    pub(super) hosts: Hosts,
    pub(super) names: Names,
    /// Shown on the broker.
    pub(super) name: String,
    /// Ends the link.
    pub(super) closed: CancellationToken,
}

/// A connection that comes back by itself, until it is closed.
pub(super) struct Link {
    state: watch::Receiver<State>,
    blocked: watch::Receiver<Option<String>>,
}

impl Link {
    /// Starts the loop, with a session that exists already or none.
    pub(super) fn start(settings: LinkSettings, first: Option<Session>) -> Self {
        let (state_sender, state) = watch::channel(State::Down("not connected yet".into()));
        let (blocked_sender, blocked) = watch::channel(None);
        let keeper = Keeper { settings, state: state_sender, blocked: blocked_sender };
        tokio::spawn(keeper.run(first));
        Self { state, blocked }
    }

    /// The living session, waiting for one until the deadline. The error says what is in the way.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, String> {
        let mut state = self.state.clone();
        let usable = |state: &State| match state {
            State::Up(session) => session.is_up(),
            State::Closed => true,
            State::Down(_) => false,
        };
        match timeout_at(deadline, state.wait_for(usable))
            .await
            .map(|found| found.map(|s| s.clone()))
        {
            Ok(Ok(State::Up(session))) => return Ok(session),
            Ok(_) => return Err("the queue was closed".into()),
            Err(_) => {}
        }
        match &*self.state.borrow() {
            State::Down(reason) => Err(reason.clone()),
            State::Up(_) | State::Closed => Err("the connection has just ended".into()),
        }
    }

    /// Returns once the loop has ended, after the link was closed.
    pub(super) async fn closed(&self) {
        let mut state = self.state.clone();
        // An error means that the loop is gone already.
        let _ = state.wait_for(|state| matches!(state, State::Closed)).await;
    }

    /// Why the broker takes nothing on this connection, if so.
    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.clone()
    }
}

/// Connects once and prepares what every session has.
pub(super) async fn open(settings: &LinkSettings, number: u64) -> Result<Session, ConnectError> {
    let connection = settings.hosts.connect(&settings.name).await?;
    let server = || settings.hosts.server().to_owned();
    let prepared = timeout(CONNECT_DEADLINE, async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        topology::declare_base(&channel, &settings.names).await?;
        Ok::<_, lapin::Error>(channel)
    });
    let channel = match prepared.await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            // Another host may be better off.
            settings.hosts.turn_away();
            let (server, reason) = (server(), error.to_string());
            return Err(if breaks(&error) || is_away(&error) {
                ConnectError::Interrupted { server, reason }
            } else {
                ConnectError::Topology { server, reason: advised(reason) }
            });
        }
        Err(_) => {
            settings.hosts.turn_away();
            return Err(ConnectError::TimedOut { server: server(), limit: CONNECT_DEADLINE });
        }
    };
    let (began, lost) = (Instant::now(), CancellationToken::new());
    Ok(Session { number, connection, channel, began, lost, reason: OnceLock::new() })
}

/// What a broker says of queues that it has already, with what to do.
fn advised(reason: String) -> String {
    if !reason.contains("x-queue-type") {
        return reason;
    }
    format!(
        "{reason}; its queues are of the other kind: add queues=classic or queues=quorum to the \
         URLs of all clients and workers, or delete the queues while none of them runs"
    )
}

/// The first session of a link, within [`CONNECT_DEADLINE`]. What answered once and broke off is
/// tried again until then; everything else is a caller's to judge at once.
pub(super) async fn open_first(settings: &LinkSettings) -> Result<Session, ConnectError> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let server = settings.hosts.server().to_owned();
    let mut last = ConnectError::TimedOut { server, limit: CONNECT_DEADLINE };
    let mut failed_attempts = 0;
    loop {
        match timeout_at(deadline, open(settings, 0)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => {
                let known = matches!(last, ConnectError::Interrupted { .. });
                match error {
                    ConnectError::Interrupted { .. } => last = error,
                    // It goes down, or is not up yet.
                    ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } if known => {}
                    _ => return Err(error),
                }
            }
            Err(_) => return Err(last),
        }
        failed_attempts += 1;
        let pause = backoff(failed_attempts);
        if Instant::now() + pause >= deadline {
            return Err(last);
        }
        tracing::debug!(error = %last, "the broker is connected to again");
        sleep(pause).await;
    }
}

/// The task behind a link.
struct Keeper {
    settings: LinkSettings,
    state: watch::Sender<State>,
    blocked: watch::Sender<Option<String>>,
}

impl Keeper {
    async fn run(self, mut first: Option<Session>) {
        let closed = self.settings.closed.clone();
        let mut failed_attempts = 0;
        for number in 1_u64.. {
            let opened = if let Some(session) = first.take() {
                Ok(session)
            } else {
                tokio::select! {
                    () = closed.cancelled() => break,
                    opened = open(&self.settings, number) => opened,
                }
            };
            let wait = match opened {
                Ok(session) => {
                    failed_attempts = 0;
                    self.keep(Arc::new(session)).await;
                    backoff(0)
                }
                Err(error) => {
                    tracing::warn!(%error, failed_attempts, "no connection to the broker");
                    self.state.send_replace(State::Down(error.to_string()));
                    failed_attempts += 1;
                    backoff(failed_attempts)
                }
            };
            tokio::select! {
                () = closed.cancelled() => break,
                () = sleep(wait) => {}
            }
        }
        self.state.send_replace(State::Closed);
    }

    /// Keeps one session until it ends.
    async fn keep(&self, session: Arc<Session>) {
        // The library's listeners take events from each other: this is the only one.
        let mut events = Box::pin(session.connection.events_listener());
        self.state.send_replace(State::Up(session.clone()));
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = self.settings.closed.cancelled() => {
                    session.fail("the queue was closed");
                    break;
                }
                _ = session.lost() => break,
                _ = look.tick() => {
                    if !session.connection.status().connected() {
                        session.fail("the connection is gone");
                    }
                }
                event = events.next() => match event {
                    Some(event) => self.note(&session, event),
                    None => session.fail("the connection is gone"),
                },
            }
        }
        let reason = session.lost().await;
        tracing::info!(%reason, link = self.settings.name, "session with the broker ended");
        self.blocked.send_replace(None);
        self.state.send_replace(State::Down(reason));
        if session.connection.status().connected() {
            let _ = timeout(CLOSE_DEADLINE, session.connection.close(200, "OK".into())).await;
        }
    }

    fn note(&self, session: &Session, event: lapin::Event) {
        match event {
            lapin::Event::ConnectionBlocked(reason) => {
                tracing::warn!(%reason, "the broker takes no messages");
                self.blocked.send_replace(Some(reason));
            }
            lapin::Event::ConnectionUnblocked => {
                tracing::info!("the broker takes messages again");
                self.blocked.send_replace(None);
            }
            lapin::Event::Error(error) => session.fail(error.to_string()),
            _ => {}
        }
    }
}
