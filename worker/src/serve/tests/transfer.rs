//! Results that arrive, and the order in which they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bolthole_broker::handoff::auth::greet;
use bolthole_broker::handoff::frame::{CHUNK, Reason};
use bolthole_broker::handoff::wire::{FrameReader, FrameWriter};
use bolthole_broker::handoff::{FetchError, Frame, Pushed};
use bolthole_broker::limits::{HANDOFF_CHUNK_BYTES, HANDOFF_STALL};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

use super::*;

const SIZES: [usize; 7] =
    [0, 1, 4 << 10, HANDOFF_CHUNK_BYTES - 1, HANDOFF_CHUNK_BYTES, HANDOFF_CHUNK_BYTES + 1, 5 << 20];

#[tokio::test]
async fn results_of_every_size_arrive_whole() {
    let port = Port::open().await;
    let values = SIZES.map(bytes);
    let wants: Vec<Want> =
        (0..).zip(&values).map(|(nonce, value)| port.put(nonce, value)).collect();
    let fetcher = fetcher();
    for (want, value) in wants.iter().zip(&values) {
        let alone = soon(fetcher.fetch(&port.peer, vec![want.clone()])).await;
        assert_eq!(alone, [Ok(value.clone())], "{} bytes alone", value.len());
    }
    let together = soon(fetcher.fetch(&port.peer, wants)).await;
    assert_eq!(together, values.map(Ok), "in the order asked for");
    assert_eq!(port.server.stats().connections, 1);
    assert_eq!(fetcher.budget().available_bytes(), fetcher.budget().capacity_bytes());
}

#[tokio::test]
async fn what_is_held_arrives_beside_what_is_not() {
    let port = Port::open().await;
    let value = bytes(1000);
    let wants = vec![nowhere(8), port.put(1, &value), nowhere(9)];
    let results = soon(fetcher().fetch(&port.peer, wants)).await;
    assert_eq!(results, [Err(FetchError::NotHeld), Ok(value), Err(FetchError::NotHeld)]);
    assert!(FetchError::NotHeld.is_lost() && !FetchError::NotHeld.is_retryable());
    assert!(soon(fetcher().fetch(&port.peer, Vec::new())).await.is_empty());
}

#[tokio::test]
async fn more_keys_than_fit_one_request_arrive() {
    let port = Port::open().await;
    let value = bytes(5);
    let wants: Vec<Want> = (0..10_000).map(|nonce| port.put(nonce, &value)).collect();
    let results = soon(fetcher().fetch(&port.peer, wants)).await;
    assert!(results.iter().all(|result| result.as_ref() == Ok(&value)));
    assert_eq!(results.len(), 10_000);
}

#[tokio::test]
async fn an_unconfirmed_result_is_served_once_it_is_committed_and_not_before() {
    let port = Port::open().await;
    let value = bytes(10);
    let digest = port.held.insert(key(1), value.clone(), None);
    let want = Want { key: key(1), length: 10, digest };
    let fetcher = fetcher();
    let mut early = Box::pin(fetcher.fetch(&port.peer, vec![want]));
    let doomed = port.held.insert(key(2), value.clone(), None);
    let mut lost =
        Box::pin(fetcher.fetch(&port.peer, vec![Want { key: key(2), length: 10, digest: doomed }]));
    // Another answer has overtaken both, so both are known to be waiting.
    let probe = port.put(3, &value);
    assert!(early.as_mut().now_or_never().is_none() && lost.as_mut().now_or_never().is_none());
    assert_eq!(soon(fetcher.fetch(&port.peer, vec![probe])).await, [Ok(value.clone())]);
    assert!(early.as_mut().now_or_never().is_none() && lost.as_mut().now_or_never().is_none());
    port.held.confirm(&key(1));
    assert_eq!(soon(early).await, [Ok(value)]);
    port.held.drop_key(&key(2));
    assert_eq!(soon(lost).await, [Err(FetchError::NotHeld)]);
}

/// The reader takes nothing until both answers are ready, so the order in which they arrive is
/// the sender's choice alone. On this runtime of one thread a task that was woken runs before
/// this one has yielded a few times.
#[tokio::test]
async fn a_small_result_does_not_wait_behind_a_large_one() {
    const LARGE: usize = 96 << 20;
    let port = Port::open().await;
    port.put(1, &Bytes::from(vec![1; LARGE]));
    port.held.insert(key(2), bytes(100), None);
    let mut stream = TcpStream::connect(&port.peer.addr).await.unwrap();
    let key_ = HandoffKey::new(Some(&secret()));
    greet(&mut stream, &key_, port.peer.incarnation).await.unwrap();
    let (read, write) = stream.into_split();
    let mut reader = FrameReader::new(read, HANDOFF_STALL);
    let mut writer = FrameWriter::new(write, HANDOFF_STALL);
    writer.send(&Frame::Get { request: 1, keys: vec![key(1)] }).await.unwrap();
    writer.send(&Frame::Get { request: 2, keys: vec![key(2)] }).await.unwrap();
    writer.flush().await.unwrap();
    let (mut confirmed, mut large) = (false, 0);
    let small = soon(async {
        loop {
            let prefix = reader.prefix().await.unwrap();
            let frame = reader.frame(prefix).await.unwrap();
            match frame {
                Frame::Chunk { request: 1, bytes, .. } => large += bytes.len(),
                Frame::Chunk { request: 2, bytes, .. } => return bytes,
                Frame::Found { .. } => assert_ne!(prefix.kind, CHUNK),
                frame => panic!("{frame:?}"),
            }
            assert!(large < LARGE, "the small result came last");
            if large > 0 && !confirmed {
                confirmed = port.held.confirm(&key(2));
                for _ in 0..100 {
                    yield_now().await;
                }
            }
        }
    });
    assert_eq!(small.await, bytes(100));
}

/// What asks at the port's number finds the local socket, whatever the host; behind another number,
/// a proxy's, it is reached by TCP.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn processes_of_one_machine_use_a_local_socket() {
    let port = Port::open().await;
    let value = bytes(3 << 20);
    let want = port.put(1, &value);
    let number = port.server.local_addr().port();
    let near = Peer { addr: format!("no-such-host.invalid:{number}"), ..port.peer };
    assert_eq!(soon(fetcher().fetch(&near, vec![want.clone()])).await, [Ok(value.clone())]);

    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let through = Peer { addr: proxy.local_addr().unwrap().to_string(), ..port.peer };
    let carried = tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", number)).await.unwrap();
        copy_bidirectional(&mut client, &mut server).await.unwrap().1
    });
    assert_eq!(soon(fetcher().fetch(&through, vec![want])).await, [Ok(value.clone())]);
    port.server.shutdown().await;
    assert!(soon(carried).await.unwrap() > value.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_fetches_share_one_connection() {
    let port = Port::open().await;
    let value = bytes(600 << 10);
    let wants: Vec<Want> = (0..64).map(|nonce| port.put(nonce, &value)).collect();
    let fetcher = fetcher();
    let running = wants.into_iter().map(|want| {
        let (fetcher, peer) = (fetcher.clone(), port.peer.clone());
        tokio::spawn(async move { fetcher.fetch(&peer, vec![want]).await })
    });
    for results in soon(join_all(running)).await {
        assert_eq!(results.unwrap(), [Ok(value.clone())]);
    }
    assert_eq!(port.server.stats().connections, 1);
    assert_eq!(port.server.stats().sent, 64);
}

#[tokio::test]
async fn a_budget_below_one_object_lets_it_in_alone() {
    let port = Port::open().await;
    let value = bytes(100 << 10);
    let wants: Vec<Want> = (0..5).map(|nonce| port.put(nonce, &value)).collect();
    let fetcher = Fetcher::new(Some(&secret()), Budget::new(64 << 10));
    let results = soon(fetcher.fetch(&port.peer, wants)).await;
    assert!(results.iter().all(|result| result.as_ref() == Ok(&value)), "{results:?}");
}

#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_nothing_behind() {
    const LARGE: u64 = 64 << 20;
    const TIMES: u64 = 20;
    let port = Port::open().await;
    let large = port.put(1, &Bytes::from(vec![1; 64 << 20]));
    let value = bytes(9);
    let small = port.put(2, &value);
    let fetcher = fetcher();
    for _ in 0..TIMES {
        let before = port.server.stats().sent_bytes;
        let mut fetch = Box::pin(fetcher.fetch(&port.peer, vec![large.clone()]));
        tokio::select! {
            biased;
            _ = &mut fetch => {}
            () = until(|| port.server.stats().sent_bytes > before) => {}
        }
        drop(fetch);
        assert_eq!(fetcher.budget().available_bytes(), fetcher.budget().capacity_bytes());
        // The connection is in step, and the places of those before are free again.
        let results = soon(fetcher.fetch(&port.peer, vec![small.clone()])).await;
        assert_eq!(results, [Ok(value.clone())]);
    }
    assert!(port.server.stats().sent_bytes < TIMES * LARGE / 2, "it was sent to nobody");
    assert_eq!(port.server.stats().connections, 1);
}

#[tokio::test]
async fn a_result_moves_to_a_peer_and_is_served_there() {
    let port = Port::open().await;
    let fetcher = fetcher();
    for (nonce, size) in (0..).zip(SIZES) {
        let value = bytes(size);
        let digest = Digest::of(&value);
        for _ in 0..2 {
            let pushed = fetcher.push(&port.peer, key(nonce), digest, value.clone());
            assert_eq!(soon(pushed).await, Ok(Pushed::Stored), "{size} bytes");
        }
        let want = Want { key: key(nonce), length: size as u64, digest };
        assert_eq!(soon(fetcher.fetch(&port.peer, vec![want])).await, [Ok(value)]);
    }
    assert_eq!(port.server.stats().received, SIZES.len() as u64);
}

#[tokio::test]
async fn a_peer_declines_what_it_cannot_take() {
    let port = Port::open().await;
    let fetcher = fetcher();
    let value = bytes(1 << 20);
    let wrong = fetcher.push(&port.peer, key(1), Digest::of(b"other"), value.clone());
    assert_eq!(soon(wrong).await, Ok(Pushed::Refused(Reason::Corrupt)));
    let admitted = port.held.admit(800 << 20).unwrap();
    let digest = Digest::of(&value);
    let full = soon(fetcher.push(&port.peer, key(1), digest, bytes(30 << 20))).await;
    assert_eq!(full, Ok(Pushed::Refused(Reason::Busy)));
    drop(admitted);
    port.server.drain();
    let leaving = soon(fetcher.push(&port.peer, key(1), digest, value)).await;
    assert_eq!(leaving, Ok(Pushed::Refused(Reason::Draining)));
    assert_eq!(port.held.stats().memory_bytes, 0, "what was set aside is given back");
}

#[tokio::test]
async fn hints_drop_what_nobody_needs() {
    let port = Port::open().await;
    let fetcher = fetcher();
    port.put(1, &bytes(10));
    port.put(2, &bytes(10));
    let other = ResultKey { task: TaskId::new(0, 8), ..key(1) };
    port.held.insert(other, bytes(10), None);
    soon(fetcher.forget(&port.peer, &[key(0)])).await.unwrap();
    soon(fetcher.probe(&port.peer)).await.unwrap();
    assert!(port.held.get(&key(1)).await.is_none(), "an attempt at the task");
    assert!(port.held.get(&key(2)).await.is_none(), "another one");
    assert!(port.held.get(&other).await.is_some(), "another task");
}

#[tokio::test]
async fn fetches_share_what_a_failed_dial_found() {
    let port = Port::open().await;
    let stranger = Arc::new(Fetcher::new(None, Budget::new(1 << 20)));
    let fetches = (0..8).map(|_| stranger.fetch(&port.peer, vec![nowhere(1)]));
    for results in soon(join_all(fetches)).await {
        assert!(matches!(results[0], Err(FetchError::Auth { .. })), "{results:?}");
    }
    until(|| port.server.stats().rejected == 1).await;
}

/// Forwards connections to `to`, towards the client no more than 64 MB/s, and counts those bytes.
async fn slow_line(to: String) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let passed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&passed);
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = far_read.read(&mut bytes).await {
            near_write.write_all(&bytes[..read]).await.unwrap();
            count.fetch_add(read as u64, Ordering::Relaxed);
            sleep(Duration::from_millis(1)).await;
        }
    });
    (addr, passed)
}

#[tokio::test]
async fn over_a_slow_line_results_are_packed() {
    const LARGE: usize = 32 << 20;
    let port = Port::open().await;
    let text: Bytes = b"2026-11-23,Aachen,17.4;".iter().copied().cycle().take(LARGE).collect();
    let wants = vec![port.put(1, &text), port.put(2, &bytes(100)), port.put(3, &text)];
    let (addr, passed) = slow_line(port.peer.addr.clone()).await;
    let far = Peer { addr, incarnation: port.peer.incarnation };
    let results = soon(fetcher().fetch(&far, wants)).await;
    assert_eq!(results, [Ok(text.clone()), Ok(bytes(100)), Ok(text)]);
    let passed = usize::try_from(passed.load(Ordering::Relaxed)).unwrap();
    assert!(passed < LARGE, "{passed} bytes for two results of {LARGE}");
}
