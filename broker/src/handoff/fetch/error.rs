//! Why a result could not be fetched, and what that means for it.

use std::io;

use crate::handoff::auth::HandshakeError;
use crate::handoff::wire::WireError;
use crate::limits::RESULT_BYTES_MAX;

/// Whether the system refuses something to this process for want of files, ports, memory or space:
/// what a little later may be there.
pub fn is_shortage(error: &io::Error) -> bool {
    /// ENFILE and EMFILE, for which the standard library has no name.
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    let many = error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code));
    many || matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull
    )
}

/// Why a result could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody listens at the address: the process is gone, and its results with it.
    #[error("no worker listens at {addr}")]
    Refused {
        /// The address.
        addr: String,
    },
    /// The peer cannot be reached, stopped answering, or closed the connection. It may live.
    #[error("the worker at {addr} cannot be reached: {cause}")]
    Unreachable {
        /// The address.
        addr: String,
        /// What went wrong.
        cause: String,
    },
    /// Another life of the worker answered: what the former one held is gone.
    #[error("the worker at {addr} was restarted: what it held is gone")]
    WrongIncarnation {
        /// The address.
        addr: String,
    },
    /// The peer does not hold the result, or not as a committed one.
    #[error("the worker does not hold the result")]
    NotHeld,
    /// What the peer sent is not what was committed. Another holder may have it whole.
    #[error("the bytes do not match the digest or length that was committed")]
    Corrupt,
    /// The cluster secrets differ.
    #[error("the worker at {addr} does not share the cluster secret; give both the same one")]
    Auth {
        /// The address.
        addr: String,
    },
    /// The peer speaks another version or something else entirely.
    #[error("the worker at {addr} broke the protocol: {cause}")]
    Protocol {
        /// The address.
        addr: String,
        /// What it did.
        cause: String,
    },
    /// The result is longer than any may be.
    #[error("a result of {length} bytes; at most {RESULT_BYTES_MAX} can be handed over")]
    TooLarge {
        /// Its length in bytes.
        length: u64,
    },
    /// This process has too many open files, or no port, for a connection: nothing is known of the
    /// peer.
    #[error("no connection can be opened from here: {cause}")]
    Exhausted {
        /// What the system says.
        cause: String,
    },
    /// There is no memory for the result at the moment.
    #[error("no memory for a result of {length} bytes")]
    OutOfMemory {
        /// Its length in bytes.
        length: u64,
    },
}

impl FetchError {
    /// Whether this peer will never give the result: look for another holder, else recompute.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::WrongIncarnation { .. } | Self::NotHeld)
    }

    /// Whether the same peer may give the result a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Corrupt
                | Self::Exhausted { .. }
                | Self::OutOfMemory { .. }
        )
    }

    /// The connection to `addr` ended, nothing more is known.
    pub(in crate::handoff) fn closed(addr: &str) -> Self {
        Self::Unreachable { addr: addr.to_owned(), cause: "the connection was closed".into() }
    }

    pub(in crate::handoff) fn from_wire(addr: &str, error: &WireError) -> Self {
        let (addr, cause) = (addr.to_owned(), error.to_string());
        match error {
            WireError::Frame(_) | WireError::Turn(_) => Self::Protocol { addr, cause },
            WireError::Closed | WireError::Stalled(_) | WireError::Io(_) => {
                Self::Unreachable { addr, cause }
            }
        }
    }

    pub(super) fn from_handshake(addr: &str, error: &HandshakeError) -> Self {
        let (addr, cause) = (addr.to_owned(), error.to_string());
        match error {
            HandshakeError::Auth => Self::Auth { addr },
            HandshakeError::WrongIncarnation => Self::WrongIncarnation { addr },
            HandshakeError::Version { .. } | HandshakeError::Frame(_) | HandshakeError::Turn(_) => {
                Self::Protocol { addr, cause }
            }
            HandshakeError::Busy | HandshakeError::TimedOut | HandshakeError::Io(_) => {
                Self::Unreachable { addr, cause }
            }
        }
    }

    pub(super) fn from_connect(addr: &str, error: &io::Error) -> Self {
        let addr = addr.to_owned();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { addr },
            _ if is_shortage(error) => Self::Exhausted { cause: error.to_string() },
            _ => Self::Unreachable { addr, cause: error.to_string() },
        }
    }
}
