//! A message that whoever may publish can make, with which the AMQP library of every worker it was
//! delivered to would use up its stack: arrays in arrays in arrays. Workers survive it, and it ends
//! among the dead letters.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolthole_broker::limits::PROPERTIES_BYTES_MAX;
use bolthole_tests::cluster::{Cluster, PATIENCE, until};
use bolthole_tests::servers::{self, RabbitServer};
use bolthole_tests::workload;
use tokio::task::block_in_place;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// What RabbitMQ agrees to when a client asks for no less.
const FRAME_MAX: usize = 131_072;
/// Types of frames, and the byte that ends each.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;

/// A connection that writes frames byte by byte, as no client library would.
struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// A connection with one open channel.
    fn connect(server: &RabbitServer) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", server.port()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut raw = Self { stream };
        let url = server.url();
        let user = url.strip_prefix("amqp://").and_then(|rest| rest.split('@').next());
        let plain = format!("\0{}", user.context("a user")?.replace(':', "\0"));
        raw.stream.write_all(b"AMQP\0\0\x09\x01")?;
        raw.expect(10, 10)?;
        let start_ok = [&[0; 4][..], b"\x05PLAIN", &long(plain.as_bytes()), b"\x05en_US"].concat();
        raw.method(0, 10, 11, &start_ok)?;
        raw.expect(10, 30)?;
        let frame_max = u32::try_from(FRAME_MAX)?.to_be_bytes();
        raw.method(0, 10, 31, &[&[0, 9][..], &frame_max, &[0, 0]].concat())?;
        raw.method(0, 10, 40, b"\x01/\0\0")?;
        raw.expect(10, 41)?;
        raw.method(1, 20, 10, b"\0")?;
        raw.expect(20, 11)?;
        Ok(raw)
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<()> {
        let [a, b] = channel.to_be_bytes();
        let length = u32::try_from(payload.len())?.to_be_bytes();
        Ok(self.stream.write_all(&[&[kind, a, b][..], &length, payload, &[END]].concat())?)
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> Result<()> {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload)
    }

    /// Reads frames until this method.
    fn expect(&mut self, class: u16, method: u16) -> Result<()> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; length + 1];
            self.stream.read_exact(&mut payload)?;
            let found = payload
                .first_chunk::<4>()
                .map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
            if head[0] == METHOD && found == Some((class, method)) {
                return Ok(());
            }
            ensure!(head[0] != METHOD, "the broker says {:?}", String::from_utf8_lossy(&payload));
        }
    }

    /// Publishes to a queue, and waits until the broker has read it.
    fn publish(&mut self, queue: &str, headers: &[u8], body: &[u8]) -> Result<()> {
        let name = [&[u8::try_from(queue.len())?], queue.as_bytes()].concat();
        self.method(1, 60, 40, &[&[0, 0, 0][..], &name, &[0]].concat())?;
        let length = (body.len() as u64).to_be_bytes();
        // Only the flag of the headers is set.
        let properties = [&[0, 60, 0, 0][..], &length, &[0x20, 0], headers].concat();
        self.frame(HEADER, 1, &properties)?;
        self.frame(BODY, 1, body)?;
        self.method(1, 20, 40, &[0; 7])?;
        self.expect(20, 41)?;
        self.method(1, 20, 10, b"\0")?;
        self.expect(20, 11)
    }
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Headers of so many bytes at the most: arrays in arrays, as many as there is room for.
fn nested(bytes: usize) -> Vec<u8> {
    let levels = (bytes - 6) / 5;
    let mut headers = Vec::with_capacity(bytes);
    let inside = |level: usize| u32::try_from(5 * (levels - level - 1)).unwrap_or(0).to_be_bytes();
    headers.extend(u32::try_from(2 + 5 * levels).unwrap_or(0).to_be_bytes());
    headers.extend(b"\x01x");
    for level in 0..levels {
        headers.push(b'A');
        headers.extend(inside(level));
    }
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_uses_up_the_stack_of_a_worker() -> Result<()> {
    let servers = servers::shared();
    let cluster = Cluster::new(PROGRAM, servers)?;
    let _workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    let messages = block_in_place(|| cluster.messages(servers))?;
    let lane = messages.keys().find(|name| name.ends_with(".default.lo")).context("a lane")?;
    let largest = FRAME_MAX - 8 - 14;
    for bytes in [largest, PROPERTIES_BYTES_MAX - 2, PROPERTIES_BYTES_MAX + 100] {
        let body = format!("nested in {bytes}");
        block_in_place(|| {
            Raw::connect(&servers.rabbit)?.publish(lane, &nested(bytes), body.as_bytes())
        })?;
        let queue = cluster.queue().await?;
        until("the message is a dead letter", async || {
            let dead = queue.dead_letters(10).await?;
            Ok(dead.iter().any(|letter| letter.body == body.as_bytes()).then_some(()))
        })
        .await?;
    }
    let client = cluster.client().await?;
    let answer = timeout(PATIENCE, client.run("after").compute(workload::etl())).await??;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    ensure!(cluster.processes()? == 2, "a worker has ended");
    Ok(())
}
