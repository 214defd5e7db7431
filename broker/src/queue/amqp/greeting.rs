//! What a broker says of itself before anyone has logged in.

use bytes::{Buf as _, Bytes};
use lapin::types::AMQPValue;
use lapin::types::parsing::parse_field_table;
use lapin::uri::AMQPScheme;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::endpoint::Endpoint;
use super::hosts::Hosts;
use crate::limits::CONNECT_DEADLINE;
use crate::queue::error::ConnectError;

/// The first bytes of AMQP 0-9-1.
const PROTOCOL: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel, length of a frame.
const FRAME_HEAD: usize = 7;
/// A method on channel 0.
const METHOD: [u8; 3] = [1, 0, 0];
/// `Connection.Start` of version 0-9.
const START: [u8; 6] = [0, 10, 0, 10, 0, 9];
/// RabbitMQ's greeting has 500 bytes. Arrays in it are read by recursion, so not much more.
const GREETING_BYTES_MAX: usize = 1 << 10;

/// Name and version of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `3.10.8`.
    pub version: String,
}

/// Asks the broker at `url` who it is, without logging in; of several hosts, the first that answers.
/// `None` when it is reached by TLS, or says nothing of itself.
pub async fn greeting(url: &str) -> Result<Option<Greeting>, ConnectError> {
    let hosts = Hosts::parse(url)?;
    let mut answer = Ok(None);
    for endpoint in hosts.in_turn() {
        answer = greeting_of(endpoint).await;
        if answer.is_ok() {
            break;
        }
    }
    answer
}

async fn greeting_of(endpoint: &Endpoint) -> Result<Option<Greeting>, ConnectError> {
    if endpoint.scheme() == AMQPScheme::AMQPS {
        return Ok(None);
    }
    let server = endpoint.server().to_owned();
    let (host, port) = endpoint.address();
    let asking = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(PROTOCOL).await?;
        let mut head = [0; FRAME_HEAD];
        stream.read_exact(&mut head).await?;
        let length = (&head[3..]).get_u32() as usize;
        if head[..3] != METHOD || length > GREETING_BYTES_MAX {
            return Ok(None);
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame).await?;
        Ok(read(frame.into()))
    };
    match timeout(CONNECT_DEADLINE, asking).await {
        Ok(Ok(greeting)) => Ok(greeting),
        Ok(Err(error)) => {
            let error: std::io::Error = error;
            Err(ConnectError::Unreachable { server, reason: error.to_string() })
        }
        Err(_) => Err(ConnectError::TimedOut { server, limit: CONNECT_DEADLINE }),
    }
}

pub(super) fn read(mut method: Bytes) -> Option<Greeting> {
    if !method.starts_with(&START) || method.len() > GREETING_BYTES_MAX {
        return None;
    }
    method.advance(START.len());
    let (_, table) = parse_field_table(&method[..]).ok()?;
    let text = |name: &str| match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    };
    Some(Greeting { product: text("product")?, version: text("version")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_are_read_and_nothing_else_is_taken_for_one() {
        let mut table = Vec::new();
        for (name, value) in [("product", "RabbitMQ"), ("version", "3.10.8")] {
            table.push(u8::try_from(name.len()).unwrap());
            table.extend(name.as_bytes());
            table.push(b'S');
            table.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            table.extend(value.as_bytes());
        }
        let mut frame = START.to_vec();
        frame.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
        frame.extend(&table);
        let greeting = read(frame.clone().into()).unwrap();
        assert_eq!((&*greeting.product, &*greeting.version), ("RabbitMQ", "3.10.8"));
        for length in 0..frame.len() {
            assert_eq!(read(frame[..length].to_vec().into()), None);
        }
        assert_eq!(read(b"HTTP/1.1 400 Bad Request".to_vec().into()), None);
    }
}
