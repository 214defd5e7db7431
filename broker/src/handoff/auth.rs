//! The handshake: both sides prove that they know the cluster secret, without sending it.
//!
//! The client speaks first and proves first, so that a stranger who connects learns nothing that a
//! secret could be guessed against. A proof covers the version, both nonces, who proves (so it
//! cannot be sent back), whom the client expected and which incarnation answered.

use std::fmt;
use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::frame::{
    Frame, FrameError, NONCE_BYTES, PREFIX_BYTES, PROOF_BYTES, Prefix, Reason, VERSION,
};
use crate::clock::random_bytes;
use crate::id::Incarnation;
use crate::limits::HANDOFF_HANDSHAKE;

/// What the processes of a cluster share. The text itself is not kept: only a key derived from it.
#[derive(Clone)]
pub struct ClusterSecret([u8; 32]);

/// A cluster secret of no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster secret is empty: give at least one byte, better 32 random ones")]
pub struct EmptySecret;

impl ClusterSecret {
    /// The secret of some text or bytes, taken exactly as they are.
    ///
    /// # Errors
    /// [`EmptySecret`] when there are none.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, EmptySecret> {
        match secret.as_ref() {
            [] => Err(EmptySecret),
            secret => Ok(Self(blake3::derive_key("bolthole v1 cluster secret", secret))),
        }
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// The key of the data port, derived from the cluster secret for this use alone.
#[derive(Clone)]
pub struct HandoffKey {
    bytes: [u8; 32],
    secret: bool,
}

impl HandoffKey {
    /// The key of a secret. Without one it is a key that everybody knows: enough to tell
    /// incarnations apart, and for the loopback interface only.
    pub fn new(secret: Option<&ClusterSecret>) -> Self {
        let context = "bolthole v1 data port";
        let material = secret.map_or(&b"public"[..], |secret| &secret.0);
        Self { bytes: blake3::derive_key(context, material), secret: secret.is_some() }
    }

    /// Whether there is a secret behind the key.
    pub fn is_secret(&self) -> bool {
        self.secret
    }
}

impl fmt::Debug for HandoffKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandoffKey").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The secrets differ, or the other side knows none.
    #[error("the other side does not share the cluster secret")]
    Auth,
    /// The other side speaks another version.
    #[error("the other side speaks version {theirs} of the data port, this one {VERSION}")]
    Version {
        /// Its version; 0 when it did not say.
        theirs: u8,
    },
    /// Another life of the worker answered: what the expected one held is gone.
    #[error("another incarnation answered")]
    WrongIncarnation,
    /// The server has as many connections as it allows.
    #[error("the other side is busy or leaving")]
    Busy,
    /// The other side said something else.
    #[error("the other side broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// A frame out of turn.
    #[error("the other side broke the protocol: frame of kind {0} out of turn")]
    Turn(u8),
    /// The handshake was not finished within its time.
    #[error("no handshake within {HANDOFF_HANDSHAKE:?}")]
    TimedOut,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Which side proves. Part of the proof.
#[derive(Clone, Copy)]
enum Role {
    Client,
    Server,
}

/// What was said in the open.
struct Transcript {
    client_nonce: [u8; NONCE_BYTES],
    server_nonce: [u8; NONCE_BYTES],
    expected: Incarnation,
    actual: Incarnation,
}

impl Transcript {
    fn proof(&self, key: &HandoffKey, role: Role) -> blake3::Hash {
        let mut message = Vec::with_capacity(2 + 2 * NONCE_BYTES + 32);
        message.push(VERSION);
        message.push(match role {
            Role::Client => b'C',
            Role::Server => b'S',
        });
        message.extend_from_slice(&self.client_nonce);
        message.extend_from_slice(&self.server_nonce);
        message.extend_from_slice(&self.expected.to_bytes());
        message.extend_from_slice(&self.actual.to_bytes());
        blake3::keyed_hash(&key.bytes, &message)
    }

    /// Compares in constant time, as `blake3::Hash` does.
    fn check(&self, key: &HandoffKey, role: Role, proof: [u8; PROOF_BYTES]) -> bool {
        self.proof(key, role) == blake3::Hash::from_bytes(proof)
    }
}

/// The client's half of the handshake.
///
/// # Errors
/// [`HandshakeError`]; [`HandshakeError::WrongIncarnation`] only once the server has proved that it
/// knows the secret, because data is given up on its word.
pub async fn greet<S>(
    stream: &mut S,
    key: &HandoffKey,
    expected: Incarnation,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(HANDOFF_HANDSHAKE, greet_unbounded(stream, key, expected))
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

async fn greet_unbounded<S>(
    stream: &mut S,
    key: &HandoffKey,
    expected: Incarnation,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let client_nonce = random_bytes();
    send(stream, &Frame::Hello { version: VERSION, nonce: client_nonce, expected }).await?;
    let (server_nonce, actual) = match receive(stream).await? {
        Frame::Challenge { version: VERSION, nonce, actual } => (nonce, actual),
        Frame::Challenge { version, .. } => {
            return Err(HandshakeError::Version { theirs: version });
        }
        frame => return Err(refusal(&frame)),
    };
    let transcript = Transcript { client_nonce, server_nonce, expected, actual };
    let proof = *transcript.proof(key, Role::Client).as_bytes();
    send(stream, &Frame::Proof(proof)).await?;
    match receive(stream).await? {
        Frame::Welcome(proof) if !transcript.check(key, Role::Server, proof) => {
            Err(HandshakeError::Auth)
        }
        Frame::Welcome(_) if actual != expected => Err(HandshakeError::WrongIncarnation),
        Frame::Welcome(_) => Ok(()),
        frame => Err(refusal(&frame)),
    }
}

/// The server's half of the handshake. `admit` is asked once the client has proved itself: without
/// a place for it, it is told so.
///
/// # Errors
/// [`HandshakeError`]. [`HandshakeError::WrongIncarnation`] when the client came for another life;
/// it has been told.
pub async fn welcome<S, P>(
    stream: &mut S,
    key: &HandoffKey,
    actual: Incarnation,
    admit: impl FnOnce() -> Option<P>,
) -> Result<P, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(HANDOFF_HANDSHAKE, welcome_unbounded(stream, key, actual, admit))
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

async fn welcome_unbounded<S, P>(
    stream: &mut S,
    key: &HandoffKey,
    actual: Incarnation,
    admit: impl FnOnce() -> Option<P>,
) -> Result<P, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client_nonce, expected) = match receive(stream).await? {
        Frame::Hello { version: VERSION, nonce, expected } => (nonce, expected),
        Frame::Hello { version, .. } => {
            send(stream, &Frame::Goodbye(Reason::Version)).await?;
            return Err(HandshakeError::Version { theirs: version });
        }
        frame => return Err(HandshakeError::Turn(frame.kind())),
    };
    let server_nonce = random_bytes();
    send(stream, &Frame::Challenge { version: VERSION, nonce: server_nonce, actual }).await?;
    let transcript = Transcript { client_nonce, server_nonce, expected, actual };
    match receive(stream).await? {
        Frame::Proof(proof) if transcript.check(key, Role::Client, proof) => {}
        Frame::Proof(_) => {
            send(stream, &Frame::Goodbye(Reason::Auth)).await?;
            return Err(HandshakeError::Auth);
        }
        frame => return Err(HandshakeError::Turn(frame.kind())),
    }
    let place = if actual == expected { admit().map(Some) } else { Some(None) };
    let Some(place) = place else {
        send(stream, &Frame::Goodbye(Reason::Busy)).await?;
        return Err(HandshakeError::Busy);
    };
    let proof = *transcript.proof(key, Role::Server).as_bytes();
    send(stream, &Frame::Welcome(proof)).await?;
    place.ok_or(HandshakeError::WrongIncarnation)
}

fn refusal(frame: &Frame) -> HandshakeError {
    match frame {
        Frame::Goodbye(Reason::Auth) => HandshakeError::Auth,
        Frame::Goodbye(Reason::Version) => HandshakeError::Version { theirs: 0 },
        Frame::Goodbye(_) => HandshakeError::Busy,
        frame => HandshakeError::Turn(frame.kind()),
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, frame: &Frame) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads exactly one frame and not a byte more: what follows belongs to others. Only frames of the
/// handshake fit, so a stranger makes nobody allocate.
async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Frame, HandshakeError> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let prefix = Prefix::parse(prefix)?;
    let mut body = [0; 64];
    let body = body
        .get_mut(..prefix.length)
        .ok_or(FrameError::Length { kind: prefix.kind, length: prefix.length })?;
    stream.read_exact(body).await?;
    Ok(Frame::decode(prefix.kind, body)?)
}

#[cfg(test)]
mod tests;
