//! What can go wrong for a client, and what to do about it.
//!
//! Three questions decide what a program does with an error: whether trying again can help
//! ([`Error::is_retryable`]), whether what was asked may have happened all the same
//! ([`Error::is_ambiguous`]), and whether a task of the graph is to blame ([`Error::task`]).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bolthole_broker::args::EncodeError;
use bolthole_broker::error::TaskError;
use bolthole_broker::graph::{CutError, PlanError, PushError};
use bolthole_broker::handoff::FetchError;
use bolthole_broker::queue::{BadName, ConnectError, PublishError, QueueError};
use bolthole_broker::run::Refused;
use bolthole_broker::store;
use bolthole_broker::wire::WireError;
use serde::de::DeserializeOwned;

use crate::capture::CaptureError;

/// The result of asking a client for something.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a client could not do what was asked. Cheap to clone.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    retryable: bool,
    ambiguous: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A server cannot be reached or refuses this user.
    Connect,
    /// RabbitMQ did not take a message.
    Queue,
    /// Redis did not do what was asked.
    Store,
    /// A worker that holds a result did not hand it over.
    Handoff,
    /// A value cannot be encoded or decoded.
    Codec,
    /// Something is larger than the system carries.
    Limit,
    /// An option, a URL or a variable of the environment is not usable, or a call is made where it
    /// cannot be.
    Config,
    /// The name of the run stands for other content.
    Conflict,
    /// Workers are there, and none of them can run a task of the graph.
    NoCapableWorker,
    /// The run takes no more tasks.
    Closed,
    /// The run or the result is no longer there.
    Gone,
    /// The worker that held the result has gone, and none is there to compute it again. Once one
    /// is, asking again has the result.
    Lost,
    /// The store came back without the run, and this client cannot stage it again.
    StoreLost,
    /// A task has no result: it failed, or it was skipped because this one failed.
    Task(Box<TaskError>),
    /// The task or the run was cancelled.
    Cancelled,
    /// The time that the caller gave was not enough.
    Timeout,
}

impl Error {
    /// An error without a cause.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retryable = matches!(kind, ErrorKind::Timeout | ErrorKind::Lost);
        Self::build(kind, message.into(), [retryable, false], None)
    }

    fn build(
        kind: ErrorKind,
        message: String,
        [retryable, ambiguous]: [bool; 2],
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { inner: Arc::new(Inner { kind, message, retryable, ambiguous, source }) }
    }

    /// A task that has no result, because of itself or of `error`'s task.
    pub(crate) fn of_task(error: TaskError, message: String) -> Self {
        Self::build(ErrorKind::Task(Box::new(error)), message, [false; 2], None)
    }

    /// A worker that could not be started.
    #[cfg(feature = "worker")]
    pub(crate) fn of_start(error: bolthole_worker::StartError) -> Self {
        Self::build(ErrorKind::Config, error.to_string(), [false; 2], Some(Box::new(error)))
    }

    /// The same, of a named run that had ended like this before it was asked for.
    pub(crate) fn of_spent(&self, name: &str) -> Self {
        let message = format!(
            "{self}; run {name:?} ended without success before this call: attach to it by its name \
             and call `retry_failed` to run what failed again"
        );
        let Inner { kind, retryable, ambiguous, .. } = &*self.inner;
        Self::build(kind.clone(), message, [*retryable, *ambiguous], Some(Box::new(self.clone())))
    }

    /// Of what kind it is.
    pub fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        self.inner.retryable
    }

    /// Whether what was asked may have happened all the same. Asking again is harmless: every
    /// request of a client may be repeated.
    pub fn is_ambiguous(&self) -> bool {
        self.inner.ambiguous
    }

    /// The task that failed, when the error comes from one.
    pub fn task(&self) -> Option<&TaskError> {
        match &self.inner.kind {
            ErrorKind::Task(error) => Some(error),
            _ => None,
        }
    }

    /// The error that the task returned, when its type can be encoded and is an `E`.
    pub fn downcast<E: DeserializeOwned>(&self) -> Option<E> {
        rmp_serde::from_slice(self.task()?.encoded.as_ref()?).ok()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.inner.kind).field("message", &self.inner.message);
        if let Some(source) = &self.inner.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        let kind = match &error {
            store::Error::Unreachable { .. } | store::Error::Denied { .. } => ErrorKind::Connect,
            store::Error::Unsuitable { .. } => ErrorKind::Config,
            store::Error::Refused(Refused::Unknown) => ErrorKind::Gone,
            store::Error::Refused(Refused::NotOpen(_)) => ErrorKind::Closed,
            store::Error::Refused(Refused::Conflict) => ErrorKind::Conflict,
            store::Error::Refused(Refused::Incomplete) => ErrorKind::StoreLost,
            _ => ErrorKind::Store,
        };
        let hints = [error.is_retryable(), error.is_ambiguous()];
        Self::build(kind, error.to_string(), hints, Some(Box::new(error)))
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::BadUrl(_) | ConnectError::BadNamespace(_) => ErrorKind::Config,
            _ => ErrorKind::Connect,
        };
        let hints = [error.is_retryable(), false];
        Self::build(kind, error.to_string(), hints, Some(Box::new(error)))
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        let hints = [error.is_retryable(), error.is_ambiguous()];
        Self::build(ErrorKind::Queue, error.to_string(), hints, Some(Box::new(error)))
    }
}

impl From<QueueError> for Error {
    fn from(error: QueueError) -> Self {
        let hints = [error.is_retryable(), error.is_retryable()];
        Self::build(ErrorKind::Queue, error.to_string(), hints, Some(Box::new(error)))
    }
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        let kind = match &error {
            FetchError::Auth { .. } => ErrorKind::Config,
            FetchError::TooLarge { .. } => ErrorKind::Limit,
            _ => ErrorKind::Handoff,
        };
        Self::build(kind, error.to_string(), [error.is_retryable(), false], Some(Box::new(error)))
    }
}

impl From<BadName> for Error {
    fn from(error: BadName) -> Self {
        Self::build(ErrorKind::Config, error.to_string(), [false; 2], Some(Box::new(error)))
    }
}

impl From<CaptureError> for Error {
    fn from(error: CaptureError) -> Self {
        let kind = match &error {
            CaptureError::Argument { source: EncodeError::Serialize { .. }, .. } => {
                ErrorKind::Codec
            }
            CaptureError::OtherRun { .. } => ErrorKind::Config,
            _ => ErrorKind::Limit,
        };
        // The cause says which value it is; a caller who prints one line should see it.
        let message = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::build(kind, message, [false; 2], Some(Box::new(error)))
    }
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        Self::build(ErrorKind::Limit, error.to_string(), [false; 2], Some(Box::new(error)))
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        Self::build(ErrorKind::Limit, error.to_string(), [false; 2], Some(Box::new(error)))
    }
}

impl From<CutError> for Error {
    fn from(error: CutError) -> Self {
        Self::build(ErrorKind::Limit, error.to_string(), [false; 2], Some(Box::new(error)))
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::build(ErrorKind::Codec, error.to_string(), [false; 2], Some(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_to_try_again_and_whether_it_may_have_happened() {
        let address = "redis:6379".to_owned();
        let reason = "timed out".to_owned();
        let error = Error::from(store::Error::Unanswered { address, reason });
        assert!(error.is_retryable() && error.is_ambiguous());
        assert!(error.to_string().contains("redis:6379"));
        let refused = Error::from(store::Error::Refused(Refused::Unknown));
        assert_eq!(refused.kind(), &ErrorKind::Gone);
        assert!(!refused.is_retryable());
        assert!(Error::new(ErrorKind::Timeout, "").is_retryable());
    }

    #[test]
    fn a_users_error_can_be_had_back() {
        use bolthole_broker::error::TaskErrorKind;
        use bolthole_broker::id::{RunId, TaskId};
        let encoded = bolthole_broker::args::encode(&(7_u8, "full")).unwrap();
        let task = TaskError {
            kind: TaskErrorKind::User,
            name: "etl::load".into(),
            run: RunId::new(1, 2),
            task: TaskId::new(0, 0),
            attempt: 1,
            worker: String::new(),
            chain: vec!["full".into()],
            backtrace: None,
            encoded: Some(encoded.into()),
        };
        let error = Error::of_task(task.clone(), task.to_string());
        assert_eq!(error.downcast::<(u8, String)>(), Some((7, "full".into())));
        assert_eq!(error.downcast::<Vec<u64>>(), None);
        assert_eq!(error.task(), Some(&task));
    }
}
