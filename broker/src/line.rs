//! What lies between a party and a server in memory, for simulations: requests and answers take time
//! on it and get lost, messages come late, twice or never. Without one, all is said and done at once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

/// A party's line to the servers. Called in the order of what happens.
pub trait Line: fmt::Debug + Send + Sync {
    /// A request sets out: how long until it arrives.
    fn depart(&self, request: &'static str) -> Duration;
    /// It has arrived: what becomes of it, and how long until its sender knows.
    fn arrive(&self, request: &'static str) -> (Fate, Duration);
    /// A message has been taken by the queue: how long until each copy of it is there. One that is
    /// lost has none.
    fn copies(&self, body: &[u8]) -> Vec<Duration>;
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Answered,
    /// It is carried out, and its answer is lost.
    Unanswered,
    /// It is lost, which its sender cannot tell from the former.
    Lost,
    /// There is no connection: nothing has happened, and its sender knows.
    Refused,
}

/// The error of a request that was refused, or whose answer is missing.
pub(crate) trait Broken {
    /// There is no connection.
    fn refused() -> Self;
    /// There is no answer.
    fn unanswered() -> Self;
}

/// Carries a request over a line, if there is one.
pub(crate) async fn carry<T, E: Broken>(
    line: Option<&Arc<dyn Line>>,
    request: &'static str,
    act: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(line) = line else { return act.await };
    pause(line.depart(request)).await;
    let (fate, back) = line.arrive(request);
    let answer = match fate {
        Fate::Answered => act.await,
        Fate::Unanswered => act.await.and_then(|_| Err(E::unanswered())),
        Fate::Lost => Err(E::unanswered()),
        Fate::Refused => Err(E::refused()),
    };
    pause(back).await;
    answer
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
