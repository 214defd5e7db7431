//! One way of one connection.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::way::{Lane, passage};

/// Bytes taken up at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks on their way: what a long, slow line holds.
const CHUNKS_MAX: usize = 64;

/// Why a connection has ended without being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// By a party.
    Party,
    /// By the proxy.
    Reset,
}

struct Chunk {
    came: Instant,
    bytes: Vec<u8>,
}

/// Hands on what comes, until its sender closes or the connection breaks.
pub(super) async fn run(from: ReadHalf<'_>, to: WriteHalf<'_>, lane: &Lane) -> Result<(), Broken> {
    let (chunks, queue) = mpsc::channel(CHUNKS_MAX);
    tokio::try_join!(read(from, chunks), write(queue, to, lane)).map(drop)
}

async fn read(mut from: ReadHalf<'_>, chunks: mpsc::Sender<Chunk>) -> Result<(), Broken> {
    loop {
        let mut bytes = vec![0; CHUNK_BYTES];
        let count = from.read(&mut bytes).await.map_err(|_| Broken::Party)?;
        bytes.truncate(count);
        let chunk = Chunk { came: Instant::now(), bytes };
        // An empty one is the end, which comes no sooner than what was sent before it.
        chunks.send(chunk).await.map_err(|_| Broken::Party)?;
        if count == 0 {
            return Ok(());
        }
    }
}

async fn write(
    mut queue: mpsc::Receiver<Chunk>,
    mut to: WriteHalf<'_>,
    lane: &Lane,
) -> Result<(), Broken> {
    let mut rules = lane.rules.subscribe();
    let closes = rules.borrow().half_closes;
    'passing: loop {
        let chunk = tokio::select! {
            chunk = queue.recv() => chunk,
            _ = rules.wait_for(|rules| rules.half_closes != closes) => None,
        };
        let Some(Chunk { came, mut bytes }) = chunk else { break };
        if bytes.is_empty() {
            if !passage(&mut rules, came, closes).await {
                break;
            }
            return to.shutdown().await.map_err(|_| Broken::Party);
        }
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at_mut(lane.piece(rest.len()));
            sleep_until(lane.turn(piece.len())).await;
            if !passage(&mut rules, came, closes).await {
                break 'passing;
            }
            let cut = lane.strike(piece);
            let passing = cut.map_or(&*piece, |at| &piece[..at]);
            to.write_all(passing).await.map_err(|_| Broken::Party)?;
            lane.bytes.fetch_add(passing.len() as u64, Ordering::Relaxed);
            if cut.is_some() {
                return Err(Broken::Reset);
            }
            rest = later;
        }
    }
    // Closed by the proxy: its sender does not notice.
    lane.half_closes.fetch_add(1, Ordering::Relaxed);
    to.shutdown().await.map_err(|_| Broken::Party)?;
    while queue.recv().await.is_some_and(|chunk| !chunk.bytes.is_empty()) {}
    Ok(())
}
