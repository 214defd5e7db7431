//! The data port: whatever a peer sends, in whatever pieces it arrives.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bolthole_broker::handoff::auth::{greet, welcome};
use bolthole_broker::handoff::frame::{CHUNK, PREFIX_BYTES, PUSH, Prefix};
use bolthole_broker::handoff::pack::unpack;
use bolthole_broker::handoff::wire::{FrameReader, WireError};
use bolthole_broker::handoff::{ClusterSecret, Frame, HandoffKey};
use bolthole_broker::id::Incarnation;
use bolthole_broker::limits::HANDOFF_STALL;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, duplex};

thread_local! {
    /// Kept for all inputs of a thread.
    static RUNTIME: RefCell<Option<tokio::runtime::Runtime>> = const { RefCell::new(None) };
}

fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with_borrow_mut(|runtime| {
        let new = || {
            let builder = &mut tokio::runtime::Builder::new_current_thread();
            // Nobody waits for what does not come: time passes at once.
            builder.enable_time().start_paused(true).build().expect("a runtime")
        };
        runtime.get_or_insert_with(new).block_on(future)
    })
}

/// Bytes that arrive in pieces, between which nothing has arrived yet. What is written is dropped.
struct Pieces<'a> {
    rest: &'a [u8],
    /// The sizes of the pieces follow from it.
    seed: u64,
    waiting: bool,
}

impl<'a> Pieces<'a> {
    fn new(seed: u8, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, seed: u64::from(seed), waiting: false }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.waiting = !self.waiting;
        if self.waiting {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.seed =
            self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let [.., size] = self.seed.to_le_bytes();
        // Single bytes, a few, and many.
        let size = if size < 64 { 1 } else { usize::from(size) * usize::from(size) / 64 };
        let (piece, rest) = self.rest.split_at(self.rest.len().min(size).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Frames one after the other. The first byte of the input says in which pieces they arrive.
pub fn frames(input: &[u8]) {
    let Some((seed, input)) = input.split_first() else { return };
    let whole = whole_frames(input);
    let mut reader = FrameReader::new(Pieces::new(*seed, input), HANDOFF_STALL);
    let mut read = Vec::new();
    run(async {
        while let Ok(frame) = next(&mut reader).await {
            let mut written = BytesMut::new();
            frame.encode(&mut written);
            let (prefix, body) = written.split_first_chunk::<PREFIX_BYTES>().expect("a prefix");
            let prefix = Prefix::parse(*prefix).expect("what was written is in bounds");
            assert_eq!(prefix.length, body.len());
            assert_eq!(Frame::decode(prefix.kind, body).as_ref(), Ok(&frame));
            if let Frame::Packed { length, bytes, .. } = &frame {
                let (length, mut unpacked) = (*length as usize, Vec::new());
                let right = unpack(bytes, length, &mut unpacked).is_ok();
                assert!(!right || unpacked.len() == length, "as long as it says");
            }
            read.push(frame);
        }
    });
    assert_eq!(read, whole, "pieces make a difference");
}

/// The next frame, as those who receive results in pieces read it.
async fn next(reader: &mut FrameReader<Pieces<'_>>) -> Result<Frame, WireError> {
    reader.ready().await?;
    let prefix = reader.prefix().await?;
    let head = match prefix.kind {
        PUSH => 4,
        CHUNK => 8,
        _ => return reader.frame(prefix).await,
    };
    let length = prefix.length.checked_sub(head).ok_or(WireError::Turn(prefix.kind))?;
    let request = reader.number().await?;
    let index = if prefix.kind == CHUNK { reader.number().await? } else { 0 };
    let mut bytes = Vec::new();
    reader.append(&mut bytes, length).await?;
    let bytes = bytes.into();
    Ok(match prefix.kind {
        PUSH => Frame::Push { request, bytes },
        _ => Frame::Chunk { request, index, bytes },
    })
}

/// The frames of a buffer, up to the first that is none.
fn whole_frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() {
        let Ok(prefix) = Prefix::parse(*prefix) else { break };
        let Some((body, rest)) = rest.split_at_checked(prefix.length) else { break };
        let Ok(frame) = Frame::decode(prefix.kind, body) else { break };
        frames.push(frame);
        bytes = rest;
    }
    frames
}

/// Handshakes with a stranger, who says what the input says, and with a friend between whom and us
/// the input changes bytes. The first byte says which, and in which pieces a stranger speaks.
pub fn handshake(input: &[u8]) {
    let Some((seed, input)) = input.split_first() else { return };
    let secret = ClusterSecret::new("fuzz").expect("a secret");
    let (key, who) = (HandoffKey::new(Some(&secret)), Incarnation::new(7));
    let mut pieces = Pieces::new(*seed, input);
    match seed % 4 {
        0 => assert!(run(greet(&mut pieces, &key, who)).is_err(), "a stranger was believed"),
        1 => {
            let welcomed = run(welcome(&mut pieces, &key, who, || Some(())));
            assert!(welcomed.is_err(), "a stranger was let in");
        }
        direction => run(tampered(direction == 2, input, &key, who)),
    }
}

/// Between two who share the secret, the bytes of one direction are changed: `input` has the place
/// and the change for each. Whoever reads a changed byte must not believe the other.
async fn tampered(to_server: bool, input: &[u8], key: &HandoffKey, who: Incarnation) {
    let (mut client, client_end) = duplex(1024);
    let (mut server, server_end) = duplex(1024);
    let (mut from_client, mut to_client) = tokio::io::split(client_end);
    let (mut from_server, mut to_the_server) = tokio::io::split(server_end);
    let (forth, back) = if to_server { (input, &[][..]) } else { (&[][..], input) };
    let middle = async {
        tokio::join!(
            pass(&mut from_client, &mut to_the_server, forth),
            pass(&mut from_server, &mut to_client, back)
        )
    };
    let client = async {
        let greeted = greet(&mut client, key, who).await;
        drop(client);
        greeted.is_ok()
    };
    let server = async {
        let welcomed = welcome(&mut server, key, who, || Some(())).await;
        drop(server);
        welcomed.is_ok()
    };
    let (greeted, welcomed, changed) = tokio::join!(client, server, middle);
    match changed {
        (false, false) => assert!(greeted && welcomed, "two friends did not meet"),
        (true, _) => assert!(!welcomed, "the server believed what had been changed"),
        (_, true) => assert!(!greeted, "the client believed what had been changed"),
    }
}

/// Hands bytes on, some of them changed; whether any was that is not the same after it.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    changes: &[u8],
) -> bool {
    let mut other = false;
    let mut at = 0_usize;
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let sent = buffer;
        for change in changes.chunks_exact(2) {
            let place = usize::from(change[0]);
            if (at..at + count).contains(&place) {
                buffer[place - at] ^= change[1];
            }
        }
        other |= buffer != sent;
        at += count;
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side is told that nothing more comes.
    let _ = to.shutdown().await;
    other
}
