//! What parent and child say to each other. Both are the same build of the same program, so a frame
//! is a MessagePack value behind its length; results follow raw behind those that announce them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bolthole_broker::args::{Arg, BlobDigest};
use bolthole_broker::call::Units;
use bolthole_broker::graph::Captured;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a reader takes at once: memory grows with what has come, not with what was announced.
const PIECE: usize = 1 << 20;

/// From parent to child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Run this; its inputs follow, then its blobs.
    Run(Job),
    /// Nobody wants the result of the last job any more.
    Cancel,
}

/// One attempt at a task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The function's registered name.
    pub(super) task: String,
    pub(super) run: RunId,
    pub(super) id: TaskId,
    pub(super) attempt: u32,
    pub(super) header: BTreeMap<String, String>,
    /// What the attempt has of the worker's resources.
    pub(super) units: Units,
    pub(super) args: Vec<Arg>,
    /// Bytes of each input.
    pub(super) inputs: Vec<u64>,
    /// Bytes of each blob.
    pub(super) blobs: Vec<(BlobDigest, u64)>,
}

/// From child to parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It can take jobs.
    Ready,
    /// The body has returned; with a value, that follows.
    Returned(Returned, Vec<Captured>),
    /// It panicked.
    Panicked { message: String, backtrace: Option<String> },
    /// It was cancelled before it returned.
    Cancelled,
}

/// What a body has returned.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Returned {
    /// A value of so many bytes.
    Value(u64),
    Forwarded(Box<Captured>),
    Failed {
        chain: Vec<String>,
        encoded: Option<Bytes>,
    },
    Unusable(String),
}

/// The bytes of a frame.
pub(super) fn encode<T: Serialize>(frame: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    // By name: options that are not set are left out.
    rmp_serde::encode::write_named(&mut bytes, frame).map_err(invalid)?;
    let length = bytes.len() - 4;
    if length > limits::CHILD_FRAME_BYTES_MAX {
        return Err(too_long(length));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// Reads a frame, waiting for it; `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if let Err(error) = from.read_exact(&mut length) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let bytes = read_bytes(from, checked(length)? as u64)?;
    decode(&bytes).map(Some)
}

/// Reads so many raw bytes.
pub(super) fn read_bytes(from: &mut impl Read, length: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes.into()) } else { Err(cut()) }
}

/// Writes a frame, and the raw bytes that it announces.
pub(super) fn write<T: Serialize>(to: &mut impl Write, frame: &T, raw: &[u8]) -> io::Result<()> {
    to.write_all(&encode(frame)?)?;
    to.write_all(raw)?;
    to.flush()
}

/// As [`read`], for who must not block; the end of the stream is an error.
pub(super) async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let bytes = receive_bytes(from, checked(length)? as u64).await?;
    decode(&bytes)
}

/// As [`read_bytes`], for who must not block.
pub(super) async fn receive_bytes(
    from: &mut (impl AsyncRead + Unpin),
    length: u64,
) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let left = length - bytes.len() as u64;
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        bytes.reserve(piece);
        if (&mut *from).take(piece as u64).read_buf(&mut bytes).await? == 0 {
            return Err(cut());
        }
    }
    Ok(bytes.into())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn checked(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(length) as usize;
    if length > limits::CHILD_FRAME_BYTES_MAX { Err(too_long(length)) } else { Ok(length) }
}

fn too_long(length: usize) -> io::Error {
    let max = limits::CHILD_FRAME_BYTES_MAX;
    invalid(format!(
        "{length} bytes of arguments or of a submitted graph, more than the {max} allowed"
    ))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_and_what_follows_them_read_back_on_both_sides() {
        let order = Order::Run(Job {
            task: "a::b".to_owned(),
            run: RunId::new(1, 2),
            id: TaskId::new(3, 4),
            attempt: 2,
            header: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            units: Units::from([("gpu".to_owned(), vec![0..1, 3..5])]),
            args: vec![Arg::List(vec![Arg::Value(Bytes::from_static(b"\x01")), Arg::Input(0)])],
            inputs: vec![3],
            blobs: vec![([7; 32], 0)],
        });
        let mut sent = Vec::new();
        write(&mut sent, &order, b"raw").unwrap();
        let mut from = &sent[..];
        let read: Order = read(&mut from).unwrap().unwrap();
        assert_eq!(format!("{read:?}"), format!("{order:?}"));
        assert_eq!(read_bytes(&mut from, 3).unwrap(), "raw");
        assert!(super::read::<Order>(&mut from).unwrap().is_none());

        let mut from = &sent[..];
        let received: Order = receive(&mut from).await.unwrap();
        assert_eq!(format!("{received:?}"), format!("{order:?}"));
        assert_eq!(receive_bytes(&mut from, 3).await.unwrap(), "raw");
        assert!(receive::<Order>(&mut from).await.is_err());
    }

    #[test]
    fn a_graph_reads_back() {
        let class = bolthole_broker::task::TaskClass::relay("q");
        let captured = Captured { classes: vec![class], ..Captured::default() };
        let report =
            Report::Returned(Returned::Forwarded(Box::new(captured.clone())), vec![captured]);
        let mut sent = Vec::new();
        write(&mut sent, &report, b"").unwrap();
        let read: Report = read(&mut &sent[..]).unwrap().unwrap();
        assert_eq!(format!("{read:?}"), format!("{report:?}"));
    }

    #[tokio::test]
    async fn nothing_is_allocated_for_what_was_only_announced() {
        let huge = u32::MAX.to_be_bytes();
        assert!(read::<Report>(&mut &huge[..]).is_err());
        assert!(receive::<Report>(&mut &huge[..]).await.is_err());
        assert!(read_bytes(&mut &b"short"[..], u64::MAX).is_err());
        assert!(receive_bytes(&mut &b"short"[..], u64::MAX).await.is_err());
    }
}
