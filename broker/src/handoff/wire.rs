//! Frames over a stream. Deadlines measure progress: a slow peer is served for as long as bytes
//! move, a silent one is left.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::frame::{Frame, FrameError, Prefix};

/// Small frames are gathered up to this many bytes before they are written. Also the size of the
/// buffer that reads go through; larger pieces bypass it.
const GATHER_BYTES: usize = 16 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// Not a byte moved for this long.
    #[error("not a byte moved for {0:?}")]
    Stalled(Duration),
    /// What came was no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame which the peer may not send, or not now.
    #[error("frame of kind {0} out of turn")]
    Turn(u8),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The reading half of a connection.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: BufReader<R>,
    stall: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `inner`; within a frame, `stall` without a byte is an error.
    pub fn new(inner: R, stall: Duration) -> Self {
        Self { inner: BufReader::with_capacity(GATHER_BYTES, inner), stall }
    }

    /// Waits for the first byte of the next frame, without a deadline. Loses nothing when dropped.
    ///
    /// # Errors
    /// [`WireError::Closed`] or [`WireError::Io`].
    pub async fn ready(&mut self) -> Result<(), WireError> {
        if self.inner.fill_buf().await?.is_empty() { Err(WireError::Closed) } else { Ok(()) }
    }

    /// The next frame's kind and length.
    ///
    /// # Errors
    /// [`WireError`]; out of bounds is [`WireError::Frame`].
    pub async fn prefix(&mut self) -> Result<Prefix, WireError> {
        Ok(Prefix::parse(self.array().await?)?)
    }

    /// The rest of a frame that is read whole.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn frame(&mut self, prefix: Prefix) -> Result<Frame, WireError> {
        let mut body = Vec::with_capacity(prefix.length);
        self.append(&mut body, prefix.length).await?;
        Ok(Frame::decode(prefix.kind, &body)?)
    }

    /// The next four bytes as a number.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn number(&mut self) -> Result<u32, WireError> {
        self.array().await.map(u32::from_be_bytes)
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        match timeout(self.stall, self.inner.read_exact(&mut array)).await {
            Ok(Ok(_)) => Ok(array),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(WireError::Closed)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(WireError::Stalled(self.stall)),
        }
    }

    /// Appends exactly `count` bytes to `buffer`, which has room for them, without a copy between.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn append(&mut self, buffer: &mut Vec<u8>, count: usize) -> Result<(), WireError> {
        let mut rest = (&mut self.inner).take(count as u64);
        while rest.limit() > 0 {
            match timeout(self.stall, rest.read_buf(buffer)).await {
                Ok(Ok(0)) => return Err(WireError::Closed),
                Ok(read) => drop(read?),
                Err(_) => return Err(WireError::Stalled(self.stall)),
            }
        }
        Ok(())
    }

    /// Reads `count` bytes and forgets them.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn skip(&mut self, mut count: usize) -> Result<(), WireError> {
        let mut scratch = Vec::new();
        while count > 0 {
            let step = count.min(GATHER_BYTES);
            scratch.clear();
            scratch.reserve(step);
            self.append(&mut scratch, step).await?;
            count -= step;
        }
        Ok(())
    }
}

/// The writing half of a connection.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    gathered: BytesMut,
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames to `inner`; `stall` without a byte taken is an error.
    pub fn new(inner: W, stall: Duration) -> Self {
        Self { inner, gathered: BytesMut::with_capacity(2 * GATHER_BYTES), stall }
    }

    /// Writes a frame, or keeps it with other small ones until [`Self::flush`]. Large payloads are
    /// written from where they are.
    ///
    /// # Errors
    /// [`WireError::Stalled`] or [`WireError::Io`].
    pub async fn send(&mut self, frame: &Frame) -> Result<(), WireError> {
        frame.encode_head(&mut self.gathered);
        match frame.payload() {
            Some(payload) if payload.len() > GATHER_BYTES => self.write(payload.clone()).await,
            Some(payload) => {
                self.gathered.extend_from_slice(payload);
                self.flush_above(GATHER_BYTES).await
            }
            None => self.flush_above(GATHER_BYTES).await,
        }
    }

    /// Writes what has been gathered.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.flush_above(0).await
    }

    async fn flush_above(&mut self, bytes: usize) -> Result<(), WireError> {
        if self.gathered.len() > bytes { self.write(Bytes::new()).await } else { Ok(()) }
    }

    /// Writes what has been gathered, then `payload`.
    async fn write(&mut self, mut payload: Bytes) -> Result<(), WireError> {
        while self.gathered.has_remaining() || payload.has_remaining() {
            let slices = [IoSlice::new(&self.gathered), IoSlice::new(&payload)];
            // An empty first slice would make a writer that takes only the first write nothing.
            let slices = if self.gathered.is_empty() { &slices[1..] } else { &slices[..] };
            let written = match timeout(self.stall, self.inner.write_vectored(slices)).await {
                Ok(Ok(0)) => return Err(WireError::Closed),
                Ok(written) => written?,
                Err(_) => return Err(WireError::Stalled(self.stall)),
            };
            let head = written.min(self.gathered.len());
            self.gathered.advance(head);
            payload.advance(written - head);
        }
        Ok(())
    }
}
