//! What a Redis holds, byte for byte, and putting it back: the tool `redis-cli` cannot carry bytes.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::RedisServer;

/// Far longer than any command of a test takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// All keys of a server, each as `DUMP` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents(Vec<(Vec<u8>, Vec<u8>)>);

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A text, a number's digits, or bytes.
    Bytes(Vec<u8>),
    /// Several of them.
    List(Vec<Reply>),
}

impl Reply {
    /// All texts in it, in order.
    pub fn leaves(&self) -> Box<dyn Iterator<Item = &[u8]> + '_> {
        match self {
            Self::Nil => Box::new(std::iter::empty()),
            Self::Bytes(bytes) => Box::new(std::iter::once(bytes.as_slice())),
            Self::List(replies) => Box::new(replies.iter().flat_map(Self::leaves)),
        }
    }

    fn read(from: &mut impl BufRead) -> anyhow::Result<Self> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let (kind, rest) = line.trim_end().split_at_checked(1).context("no answer")?;
        let length = || rest.parse::<i64>().ok().and_then(|length| usize::try_from(length).ok());
        match kind {
            "+" | ":" => Ok(Self::Bytes(rest.as_bytes().to_vec())),
            "$" => {
                let Some(length) = length() else { return Ok(Self::Nil) };
                let mut bytes = vec![0; length + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(Self::Bytes(bytes))
            }
            "*" => {
                let count = length().unwrap_or(0);
                Ok(Self::List((0..count).map(|_| Self::read(from)).collect::<Result<_, _>>()?))
            }
            _ => bail!("Redis: {line}"),
        }
    }
}

impl RedisServer {
    /// Carries out one command, whose arguments may be any bytes.
    pub fn ask(&self, command: &[&[u8]]) -> anyhow::Result<Reply> {
        let mut replies = self.ask_all(&[command.iter().map(|part| part.to_vec()).collect()])?;
        replies.pop().context("no answer")
    }

    /// Carries out commands one after the other.
    pub fn ask_all(&self, commands: &[Vec<Vec<u8>>]) -> anyhow::Result<Vec<Reply>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answers = BufReader::new(&stream);
        let login = vec![b"AUTH".to_vec(), self.password().as_bytes().to_vec()];
        let mut replies = Vec::new();
        for command in std::iter::once(&login).chain(commands) {
            let mut request = format!("*{}\r\n", command.len()).into_bytes();
            for part in command {
                request.extend(format!("${}\r\n", part.len()).into_bytes());
                request.extend(part);
                request.extend(b"\r\n");
            }
            (&stream).write_all(&request)?;
            replies.push(Reply::read(&mut answers)?);
        }
        replies.remove(0);
        Ok(replies)
    }

    /// Everything that it holds.
    pub fn contents(&self) -> anyhow::Result<Contents> {
        let keys = self.ask(&[b"KEYS", b"*"])?;
        let keys: Vec<Vec<u8>> = keys.leaves().map(<[u8]>::to_vec).collect();
        let dumps: Vec<Vec<Vec<u8>>> =
            keys.iter().map(|key| vec![b"DUMP".to_vec(), key.clone()]).collect();
        let mut contents = Vec::new();
        for (key, dump) in keys.into_iter().zip(self.ask_all(&dumps)?) {
            // One that has run out meanwhile is left out.
            if let Reply::Bytes(dump) = dump {
                contents.push((key, dump));
            }
        }
        Ok(Contents(contents))
    }

    /// Makes it hold this and nothing else, without a time at which a key runs out.
    pub fn put_back(&self, contents: &Contents) -> anyhow::Result<()> {
        let mut commands = vec![vec![b"FLUSHDB".to_vec()]];
        commands.extend(contents.0.iter().map(|(key, dump)| {
            vec![b"RESTORE".to_vec(), key.clone(), b"0".to_vec(), dump.clone()]
        }));
        self.ask_all(&commands).map(drop)
    }
}
