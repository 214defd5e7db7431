//! Each fault, against a server that sends back what it gets.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::*;
use crate::cluster::PATIENCE;

/// How long nothing must come while nothing may.
const SILENCE: Duration = Duration::from_millis(50);
const TEXT: &[u8] = b"some words that are sent back";

/// An echo on a port of its own, and a proxy before it.
async fn bench() -> (Proxy, JoinSet<()>) {
    let listener = listen(0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut echoes = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            echoes.spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (Proxy::before(port).await.unwrap(), serving)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
}

/// Sends, and reads as much back.
async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("an answer in time")?;
    Ok(back)
}

/// What comes until the end, and how it ends.
async fn drain(stream: &mut TcpStream) -> (Vec<u8>, std::io::Result<usize>) {
    let mut all = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end in time");
    (all, ended)
}

fn assert_reset(ended: std::io::Result<usize>) {
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_sent_arrives_and_is_counted() {
    let (proxy, _serving) = bench().await;
    let mut stream = connect(&proxy).await;
    let large: Vec<u8> = (0..1_000_000_u32).map(|place| place.to_le_bytes()[1]).collect();
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; large.len()];
    let both = async { tokio::join!(write.write_all(&large), read.read_exact(&mut back)) };
    let (sent, got) = timeout(PATIENCE, both).await.unwrap();
    sent.and(got.map(drop)).unwrap();
    assert_eq!(back, large);
    for way in Way::BOTH {
        assert_eq!(proxy.bytes(way), 1_000_000);
    }
    stream.shutdown().await.unwrap();
    let (rest, ended) = drain(&mut stream).await;
    assert_eq!((rest.len(), ended.unwrap()), (0, 0), "an end goes through and comes back");
    assert_eq!((proxy.connections(), proxy.faults()), (1, Faults::default()));
}

#[tokio::test]
async fn a_delay_holds_every_byte_back() {
    let (proxy, _serving) = bench().await;
    let mut stream = connect(&proxy).await;
    proxy.delay(Way::Up, 2 * SILENCE);
    proxy.delay(Way::Down, SILENCE);
    let began = Instant::now();
    assert_eq!(echo(&mut stream, TEXT).await.unwrap(), TEXT);
    assert!(began.elapsed() >= 3 * SILENCE);
}

#[tokio::test]
async fn a_limit_is_that_of_all_connections_together() {
    let (proxy, _serving) = bench().await;
    let (mut one, mut two) = (connect(&proxy).await, connect(&proxy).await);
    proxy.throttle(Way::Up, NonZeroU64::new(100_000));
    let began = Instant::now();
    let bytes = vec![1; 20_000];
    let (first, second) = tokio::join!(echo(&mut one, &bytes), echo(&mut two, &bytes));
    assert_eq!((first.unwrap(), second.unwrap()), (bytes.clone(), bytes));
    // All but the last piece, of a twentieth of a second.
    assert!(began.elapsed() >= Duration::from_millis(340), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_black_hole_is_silent_and_loses_nothing() {
    let (proxy, _serving) = bench().await;
    for way in Way::BOTH {
        let mut stream = connect(&proxy).await;
        proxy.blackhole(way, true);
        stream.write_all(TEXT).await.unwrap();
        let mut back = vec![0; TEXT.len()];
        assert!(timeout(SILENCE, stream.read_exact(&mut back)).await.is_err(), "{way:?}");
        proxy.blackhole(way, false);
        timeout(PATIENCE, stream.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back, TEXT);
    }
}

#[tokio::test]
async fn a_black_hole_both_ways_makes_no_connection() {
    let (proxy, _serving) = bench().await;
    for way in Way::BOTH {
        proxy.blackhole(way, true);
    }
    let mut stream = connect(&proxy).await;
    assert!(timeout(SILENCE, echo(&mut stream, TEXT)).await.is_err());
    assert_eq!((proxy.bytes(Way::Up), proxy.connections()), (0, 1));
    proxy.heal().await;
    let mut back = vec![0; TEXT.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, TEXT);
}

#[tokio::test]
async fn a_cut_lets_so_many_bytes_pass_and_resets() {
    let (proxy, _serving) = bench().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, TEXT).await.unwrap(), TEXT);
    proxy.cut_after(Way::Down, 10);
    assert_eq!(echo(&mut stream, b"six by").await.unwrap(), b"six by");
    stream.write_all(TEXT).await.unwrap();
    let (rest, ended) = drain(&mut stream).await;
    assert_eq!(rest, &TEXT[..4]);
    assert_reset(ended);
    assert_eq!(proxy.faults(), Faults { resets: 1, ..Faults::default() });
    assert_eq!(echo(&mut connect(&proxy).await, TEXT).await.unwrap(), TEXT, "it happens once");
}

#[tokio::test]
async fn a_byte_is_flipped_once() {
    let (proxy, _serving) = bench().await;
    let mut stream = connect(&proxy).await;
    proxy.flip(Way::Up, 7);
    assert_eq!(echo(&mut stream, b"abcd").await.unwrap(), b"abcd");
    assert_eq!(echo(&mut stream, b"abcd").await.unwrap(), b"abce");
    assert_eq!(echo(&mut stream, b"abcd").await.unwrap(), b"abcd");
    assert_eq!(proxy.faults(), Faults { flips: 1, ..Faults::default() });
}

#[tokio::test]
async fn a_way_is_closed_and_the_other_goes_on() {
    let (proxy, _serving) = bench().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, TEXT).await.unwrap(), TEXT);
    proxy.half_close(Way::Down);
    let (rest, ended) = drain(&mut stream).await;
    assert_eq!((rest.len(), ended.unwrap()), (0, 0));
    let before = proxy.bytes(Way::Up);
    stream.write_all(TEXT).await.unwrap();
    let passed = async {
        while proxy.bytes(Way::Up) < before + TEXT.len() as u64 {
            sleep(RETRY).await;
        }
    };
    timeout(PATIENCE, passed).await.unwrap();
    assert_eq!(proxy.faults(), Faults { half_closes: 1, ..Faults::default() });
    assert_eq!(
        echo(&mut connect(&proxy).await, TEXT).await.unwrap(),
        TEXT,
        "only those there were"
    );
}

#[tokio::test]
async fn a_reset_ends_all_there_are() {
    let (proxy, _serving) = bench().await;
    let mut streams = [connect(&proxy).await, connect(&proxy).await];
    for stream in &mut streams {
        assert_eq!(echo(stream, TEXT).await.unwrap(), TEXT);
    }
    proxy.reset();
    for stream in &mut streams {
        assert_reset(drain(stream).await.1);
    }
    assert_eq!(proxy.faults(), Faults { resets: 2, ..Faults::default() });
}

#[tokio::test]
async fn new_connections_are_refused_and_taken_again() {
    let (proxy, _serving) = bench().await;
    let mut before = connect(&proxy).await;
    assert_eq!(echo(&mut before, TEXT).await.unwrap(), TEXT);
    for _ in 0..3 {
        proxy.refuse(true).await;
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(echo(&mut before, TEXT).await.unwrap(), TEXT, "it goes on");
        proxy.refuse(false).await;
        assert_eq!(echo(&mut connect(&proxy).await, TEXT).await.unwrap(), TEXT);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_resets() {
    let (proxy, _serving) = bench().await;
    let nobody = Port::reserve().unwrap();
    proxy.aim(nobody.number());
    let mut stream = connect(&proxy).await;
    assert_reset(drain(&mut stream).await.1);
    assert_eq!(proxy.through("redis://:x@127.0.0.1:1/0"), "redis://:x@127.0.0.1:1/0");
    let through = proxy.through(&format!("127.0.0.1:{}", nobody.number()));
    assert_eq!(through, format!("127.0.0.1:{}", proxy.port()));
}
