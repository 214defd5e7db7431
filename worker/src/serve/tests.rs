//! Both halves of the data port against each other, over real sockets on the loopback interface.

mod hostile;
mod transfer;

use std::time::Duration;

use bolthole_broker::clock::new_incarnation;
use bolthole_broker::handoff::{Budget, Digest, Fetcher, Peer, Want};
use bolthole_broker::id::{ResultKey, RunId, TaskId};
use bytes::Bytes;

use super::*;
use crate::hold::HoldOptions;

/// Long enough for any of these on the slowest machine; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `future`, but not for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it should not take this long")
}

/// Waits until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn secret() -> ClusterSecret {
    ClusterSecret::new("between us").unwrap()
}

fn key(nonce: u64) -> ResultKey {
    let run = RunId::from_bytes([1; 16]);
    ResultKey { run, task: TaskId::new(0, 7), generation: 0, nonce }
}

/// Bytes that differ from place to place.
fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

async fn hold() -> Held {
    let incarnation = new_incarnation();
    let options = HoldOptions { memory_bytes: 1 << 30, spill_dir: None, incarnation };
    Held::open(options).await.unwrap()
}

/// A worker's data port, and what it holds.
struct Port {
    held: Held,
    server: Server,
    peer: Peer,
}

impl Port {
    async fn open() -> Self {
        let incarnation = new_incarnation();
        let held = hold().await;
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = ServeOptions { bind, secret: Some(secret()), incarnation };
        let server = Server::bind(options, held.clone()).await.unwrap();
        let peer = Peer { addr: server.local_addr().to_string(), incarnation };
        Self { held, server, peer }
    }

    /// Holds a committed result.
    fn put(&self, nonce: u64, bytes: &Bytes) -> Want {
        let digest = self.held.insert(key(nonce), bytes.clone(), None);
        assert!(self.held.confirm(&key(nonce)));
        Want { key: key(nonce), length: bytes.len() as u64, digest }
    }
}

fn fetcher() -> Fetcher {
    Fetcher::new(Some(&secret()), Budget::new(1 << 30))
}

/// What is wanted of a result that is held nowhere.
fn nowhere(nonce: u64) -> Want {
    Want { key: key(nonce), length: 3, digest: Digest::of(b"abc") }
}
