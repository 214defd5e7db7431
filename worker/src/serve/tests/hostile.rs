//! Peers that are gone, replaced, strangers, broken or malicious.

use std::net::Ipv4Addr;

use bolthole_broker::handoff::auth::greet;
use bolthole_broker::handoff::{FetchError, Frame};
use bolthole_broker::limits::{HANDOFF_CHUNK_BYTES, RESULT_BYTES_MAX};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[tokio::test]
async fn strangers_are_refused_and_told_so() {
    let port = Port::open().await;
    let want = port.put(1, &bytes(10));
    for secret in [Some(ClusterSecret::new("guess").unwrap()), None] {
        let fetcher = Fetcher::new(secret.as_ref(), Budget::new(1 << 20));
        let results = soon(fetcher.fetch(&port.peer, vec![want.clone()])).await;
        assert!(matches!(results[..], [Err(FetchError::Auth { .. })]), "{results:?}");
    }
    assert_eq!(port.server.stats().sent, 0);
}

#[tokio::test]
async fn another_incarnation_at_the_address_means_lost() {
    let port = Port::open().await;
    let want = port.put(1, &bytes(10));
    let former = Peer { incarnation: new_incarnation(), ..port.peer.clone() };
    let fetcher = fetcher();
    let results = soon(fetcher.fetch(&former, vec![want.clone()])).await;
    let [Err(error)] = &results[..] else { panic!("{results:?}") };
    assert!(matches!(error, FetchError::WrongIncarnation { .. }), "{error:?}");
    assert!(error.is_lost() && !error.is_retryable());
    assert_eq!(soon(fetcher.probe(&former)).await.as_ref(), Err(error));
    assert!(soon(fetcher.fetch(&port.peer, vec![want])).await[0].is_ok());
}

#[tokio::test]
async fn a_port_that_was_closed_means_lost() {
    let port = Port::open().await;
    let want = port.put(1, &bytes(10));
    let fetcher = fetcher();
    assert!(soon(fetcher.fetch(&port.peer, vec![want.clone()])).await[0].is_ok());
    soon(fetcher.probe(&port.peer)).await.unwrap();
    soon(port.server.shutdown()).await;
    let results = soon(fetcher.fetch(&port.peer, vec![want])).await;
    let [Err(error)] = &results[..] else { panic!("{results:?}") };
    assert!(matches!(error, FetchError::Refused { .. }), "{error:?}");
    assert!(error.is_lost());
    assert!(soon(fetcher.probe(&port.peer)).await.is_err_and(|error| error.is_lost()));
}

#[tokio::test]
async fn a_length_beyond_all_limits_is_refused_before_anything_is_allocated() {
    let port = Port::open().await;
    let want = Want { length: RESULT_BYTES_MAX + 1, ..nowhere(1) };
    let results = soon(fetcher().fetch(&port.peer, vec![want])).await;
    assert_eq!(results, [Err(FetchError::TooLarge { length: RESULT_BYTES_MAX + 1 })]);
    assert_eq!(port.server.stats().connections, 0);
}

#[tokio::test]
async fn without_a_secret_only_the_loopback_interface_is_served() {
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let incarnation = new_incarnation();
    let options = |secret| ServeOptions { bind, secret, incarnation };
    let refused = Server::bind(options(None), hold().await).await.unwrap_err();
    assert!(matches!(refused, ServeError::Open(addr) if addr == bind));
    assert!(refused.to_string().contains("cluster secret"), "{refused}");
    assert!(Server::bind(options(Some(secret())), hold().await).await.is_ok());
    assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!is_loopback("::".parse().unwrap()));
}

/// Sends `garbage` on a connection, past the handshake if `greeted`, and waits for its end.
async fn throw(port: &Port, greeted: bool, garbage: &[u8]) {
    let mut stream = TcpStream::connect(&port.peer.addr).await.unwrap();
    if greeted {
        let key = HandoffKey::new(Some(&secret()));
        greet(&mut stream, &key, port.peer.incarnation).await.unwrap();
    }
    // The server may close before it has read everything: then writing or reading fails.
    let _ = stream.write_all(garbage).await;
    let _ = soon(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_alone() {
    let port = Port::open().await;
    let value = bytes(10);
    let want = port.put(1, &value);
    let fetcher = fetcher();
    let mut push = BytesMut::new();
    Frame::Push { request: 5, bytes: bytes(100) }.encode(&mut push);
    let mut pong = BytesMut::new();
    Frame::Pong { request: 5 }.encode(&mut pong);
    let all: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[255; 64],
        &[0; 64],
        &[0, 0, 0, 5, 99, 1, 2, 3, 4],
        &[127, 255, 255, 255, 21],
        &push,
        &pong,
    ];
    for garbage in all {
        throw(&port, false, garbage).await;
        throw(&port, true, garbage).await;
        let results = soon(fetcher.fetch(&port.peer, vec![want.clone()])).await;
        assert_eq!(results, [Ok(value.clone())]);
    }
    until(|| port.server.stats().connections == 1).await;
}

#[tokio::test]
async fn idle_strangers_keep_nobody_out() {
    let port = Port::open().await;
    let value = bytes(10);
    let want = port.put(1, &value);
    let mut strangers = Vec::new();
    for _ in 0..3 * HANDOFF_HANDSHAKES_MAX {
        strangers.push(TcpStream::connect(&port.peer.addr).await.unwrap());
    }
    assert_eq!(soon(fetcher().fetch(&port.peer, vec![want])).await, [Ok(value)]);
    // Some of them have been put out to make room, the first before all others.
    let end = soon(strangers[0].read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(port.server.stats().evicted > 0);
}

/// A peer that finishes its handshakes, then answers every request with the same bytes and closes.
async fn impostor(answer: Vec<Frame>) -> Peer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let incarnation = new_incarnation();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let key = HandoffKey::new(Some(&secret()));
            let greeted = welcome(&mut stream, &key, incarnation, || Some(())).await;
            let mut out = BytesMut::new();
            for frame in &answer {
                frame.encode(&mut out);
            }
            // The request is 5 + 4 + 33 bytes a key; one is enough to know that it came.
            if greeted.is_ok() && stream.read_exact(&mut [0; 42]).await.is_ok() {
                let _ = stream.write_all(&out).await;
                let _ = stream.shutdown().await;
                // Reading on, so that what the client still sends does not reset the connection.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    Peer { addr, incarnation }
}

fn want(value: &Bytes) -> Want {
    Want { key: key(1), length: value.len() as u64, digest: Digest::of(value) }
}

fn found(request: u32, index: u32, want: &Want) -> Frame {
    Frame::Found { request, index, length: want.length, digest: want.digest }
}

#[tokio::test]
async fn bytes_that_were_changed_are_corrupt() {
    let value = bytes(1000);
    let want = want(&value);
    let mut flipped = value.to_vec();
    flipped[500] ^= 1;
    let chunk = Frame::Chunk { request: 1, index: 0, bytes: flipped.into() };
    let peer = impostor(vec![found(1, 0, &want), chunk]).await;
    let results = soon(fetcher().fetch(&peer, vec![want])).await;
    assert_eq!(results, [Err(FetchError::Corrupt)]);
    assert!(FetchError::Corrupt.is_retryable() && !FetchError::Corrupt.is_lost());
}

#[tokio::test]
async fn a_result_other_than_the_committed_one_is_not_even_received() {
    let want = want(&bytes(1000));
    for other in [Want { length: 1 << 50, ..want.clone() }, Want { length: 0, ..want.clone() }] {
        let chunk = Frame::Chunk { request: 1, index: 0, bytes: bytes(HANDOFF_CHUNK_BYTES) };
        let peer = impostor(vec![found(1, 0, &other), chunk]).await;
        let results = soon(fetcher().fetch(&peer, vec![want.clone()])).await;
        assert_eq!(results, [Err(FetchError::Corrupt)]);
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_named() {
    let want = want(&bytes(1000));
    let chunk = |length| Frame::Chunk { request: 1, index: 0, bytes: bytes(length) };
    let found = || found(1, 0, &want);
    let breaches = [
        vec![found(), chunk(1001)],
        vec![found(), chunk(0)],
        vec![found(), found()],
        vec![Frame::Found { request: 1, index: 1, length: 1000, digest: want.digest }],
        vec![Frame::Ping { request: 1 }],
    ];
    for breach in breaches {
        let shown = format!("{breach:?}");
        let peer = impostor(breach).await;
        let results = soon(fetcher().fetch(&peer, vec![want.clone()])).await;
        assert!(matches!(results[..], [Err(FetchError::Protocol { .. })]), "{shown}: {results:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_midway_keeps_what_had_arrived() {
    let (first, second) = (bytes(10), bytes(1000));
    let wants = vec![want(&first), want(&second)];
    let answer = vec![
        found(1, 0, &wants[0]),
        Frame::Chunk { request: 1, index: 0, bytes: first.clone() },
        found(1, 1, &wants[1]),
        Frame::Chunk { request: 1, index: 1, bytes: second.slice(..500) },
    ];
    let peer = impostor(answer).await;
    let results = soon(fetcher().fetch(&peer, wants)).await;
    let [Ok(arrived), Err(error)] = &results[..] else { panic!("{results:?}") };
    assert_eq!(arrived, &first);
    assert!(matches!(error, FetchError::Unreachable { .. }) && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_skipped() {
    let value = bytes(1000);
    let want = want(&value);
    let answer = vec![
        found(77, 0, &want),
        Frame::Chunk { request: 77, index: 0, bytes: value.clone() },
        Frame::NotHeld { request: 78, index: 9 },
        Frame::Stored { request: 79 },
        found(1, 0, &want),
        Frame::Chunk { request: 1, index: 0, bytes: value.clone() },
    ];
    let peer = impostor(answer).await;
    assert_eq!(soon(fetcher().fetch(&peer, vec![want])).await, [Ok(value)]);
}
