//! What an error of the client library means to a caller of the store.

use redis::RedisError;

use super::super::Error;

/// What went wrong with one attempt.
pub(super) enum Trouble {
    /// Nothing was sent.
    Unsent(String),
    /// It was sent and not answered.
    Lost(String),
    /// The server cannot take it now, or another one has the key.
    NotNow(String),
    /// The library is gone.
    NoFunction,
    /// Repeating does not help.
    Final(Error),
}

impl Trouble {
    /// The same, with who it was: of several servers, it matters.
    pub(super) fn at(self, address: &str) -> Self {
        let named = |reason: String| format!("{address}: {reason}");
        match self {
            Self::Unsent(reason) => Self::Unsent(named(reason)),
            Self::Lost(reason) => Self::Lost(named(reason)),
            Self::NotNow(reason) => Self::NotNow(named(reason)),
            other => other,
        }
    }

    /// Judges what a server has said, or that it has said nothing.
    pub(super) fn judge(address: &str, error: &RedisError) -> Self {
        let reason = error.to_string();
        let address = address.to_owned();
        let refused = error.kind() == redis::ErrorKind::AuthenticationFailed;
        match error.code() {
            _ if refused => Self::Final(Error::Denied { address, reason }),
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => {
                Self::Final(Error::Denied { address, reason })
            }
            Some("OOM" | "MISCONF") => Self::Final(Error::Full { address, reason }),
            Some(
                "LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY"
                | "MOVED" | "ASK",
            ) => Self::NotNow(reason),
            _ if reason.contains("Function not found") => Self::NoFunction,
            // The slot is on its way to another server. A function that looked for what has not
            // arrived there yet would take it for absent, so nobody follows it before it is there.
            _ if reason.contains("access a non local key") => Self::NotNow(reason),
            // Not every right is named by its code: inside a function the error is wrapped.
            _ if reason.contains("NOPERM") || reason.contains("ACL failure") => {
                Self::Final(Error::Denied { address, reason })
            }
            Some(_) => Self::Final(Error::Corrupt(reason)),
            None if error.kind() == redis::ErrorKind::UnexpectedReturnType => {
                Self::Final(Error::Corrupt(reason))
            }
            None if error.kind() == redis::ErrorKind::InvalidClientConfig => {
                Self::Final(Error::Unsuitable { address, reason })
            }
            None => Self::Lost(reason),
        }
    }
}
