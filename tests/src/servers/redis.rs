//! A private Redis.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::aof;
use super::group::{Group, Process};
use super::port::Port;
use super::random_hex;

/// What may differ between two test Redis servers.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Whether data outlives a [`RedisServer::kill`] (append-only file, synced every second).
    pub append_only: bool,
    /// Further lines of the configuration file, for example `maxmemory 1mb`. They come last, so
    /// they win.
    pub config: Vec<String>,
}

/// A Redis of this process alone, on loopback, behind a random password.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Process>,
    port: Port,
    password: Password,
    // Last, for what it holds must outlive the process that uses it.
    group: Group,
}

impl RedisServer {
    /// Starts a server without data and waits until it answers.
    ///
    /// # Errors
    /// When `redis-server` is not installed or does not come up; the message ends with its log.
    pub fn start(options: &RedisOptions) -> anyhow::Result<Self> {
        Self::start_as(options, random_hex(16))
    }

    /// The same with a password that others have too.
    pub(super) fn start_as(options: &RedisOptions, password: String) -> anyhow::Result<Self> {
        let group = Group::new()?;
        let port = Port::reserve()?;
        let password = Password(password);
        fs::create_dir(group.folder().join("data"))?;
        let config = configuration(&group, &port, &password, options)?;
        fs::write(group.folder().join("redis.conf"), config)?;
        let mut server = Self { process: None, port, password, group };
        server.launch()?;
        Ok(server)
    }

    /// Where clients find the server, with its password: `redis://default:PASSWORD@127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        format!("redis://default:{}@127.0.0.1:{}/0", self.password.0, self.port())
    }

    /// The loopback port, the same for the life of this value.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub(super) fn password(&self) -> &str {
        &self.password.0
    }

    /// The server's own folder, also its home: configuration, log and data.
    pub fn folder(&self) -> &Path {
        self.group.folder()
    }

    /// The id of the server's process while it is up.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What `redis-cli` prints for a command, for example `["DBSIZE"]`.
    ///
    /// # Errors
    /// When the server is down or refuses the command.
    pub fn cli<const N: usize>(&self, command: [&str; N]) -> anyhow::Result<String> {
        let output = Command::new("redis-cli")
            .args(["-e", "-h", "127.0.0.1", "-p", &self.port().to_string()])
            .args(command)
            .env("REDISCLI_AUTH", &self.password.0)
            .stdin(Stdio::null())
            .output()
            .context("cannot start redis-cli")?;
        if !output.status.success() {
            bail!("redis-cli: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Stops the server in good order (SIGTERM). Without the append-only file its data are gone.
    /// Harmless when it is down.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |process| process.terminate().map(drop))
    }

    /// Kills the server (SIGKILL). Harmless when it is down.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Starts the server again, on the same port and data, after stopping it if it is up.
    ///
    /// # Errors
    /// When it does not stop or come up in time.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Kills the server and starts it on the same port without any data.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub fn wipe(&mut self) -> anyhow::Result<()> {
        self.kill();
        let data = self.group.folder().join("data");
        fs::remove_dir_all(&data)?;
        fs::create_dir(&data)?;
        self.launch()
    }

    /// Kills the server and starts it without any key or function, but as the member of its cluster
    /// that it was.
    ///
    /// # Errors
    /// When it keeps no append-only file, or does not come up in time.
    pub fn empty(&mut self) -> anyhow::Result<()> {
        self.kill();
        fs::remove_dir_all(self.group.folder().join("data/appendonlydir"))?;
        self.launch()
    }

    /// Sends the server a signal: `STOP`, `CONT`.
    ///
    /// # Errors
    /// When it is down.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        self.process.as_ref().context("the server is down")?.signal(name)
    }

    /// Kills the server and starts it without its last `count` commands, as if the machine had lost
    /// power before they were on disk. What a function has done counts as one and goes as a whole.
    ///
    /// # Errors
    /// When it keeps no append-only file, or does not come up in time.
    pub fn roll_back(&mut self, count: usize) -> anyhow::Result<()> {
        self.kill();
        let last = self.journal()?;
        let bytes = fs::read(&last)?;
        let keep = aof::without_last(&bytes, count)?;
        fs::File::options().write(true).open(&last)?.set_len(keep as u64)?;
        self.launch()
    }

    /// The keys that were written since the server was started without data, whatever became of
    /// them: the second word of each command in its append-only file.
    ///
    /// # Errors
    /// When it keeps no append-only file.
    pub fn written_keys(&self) -> anyhow::Result<BTreeSet<String>> {
        let bytes = fs::read(self.journal()?)?;
        let commands = aof::commands(&bytes)?;
        let key = |words: &Vec<&[u8]>| Some(String::from_utf8_lossy(words.get(1)?).into_owned());
        let keyed = |words: &&Vec<&[u8]>| ![&b"SELECT"[..], b"FUNCTION"].contains(&words[0]);
        Ok(commands.iter().filter(keyed).filter_map(key).collect())
    }

    /// The append-only file that is written now.
    fn journal(&self) -> anyhow::Result<PathBuf> {
        let folder = self.group.folder().join("data/appendonlydir");
        let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
        files.retain(|file| file.path().to_string_lossy().ends_with(".incr.aof"));
        files.sort_by_key(fs::DirEntry::file_name);
        Ok(files.pop().context("there is no append-only file")?.path())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = self.group.command("redis-server")?;
        command.arg(self.group.folder().join("redis.conf"));
        let mut process = self
            .group
            .spawn("redis", command)
            .context("Redis did not start; tests/run.sh installs what is missing")?;
        process.wait_ready(|| ping(self.port.number(), &self.password).unwrap_or(false))?;
        self.process = Some(process);
        Ok(())
    }
}

/// A password, kept out of what tests print.
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// The configuration file. It carries the password, which a command line would show to everyone.
fn configuration(
    group: &Group,
    port: &Port,
    password: &Password,
    options: &RedisOptions,
) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "bind 127.0.0.1\nport {}\nrequirepass {}", port.number(), password.0)?;
    writeln!(text, "dir \"{}\"\nsave \"\"", group.folder().join("data").display())?;
    let append_only = if options.append_only { "yes" } else { "no" };
    writeln!(text, "appendonly {append_only}\nmaxmemory-policy noeviction")?;
    // A changed title would overwrite the environment, by which processes are recognised.
    writeln!(text, "set-proc-title no")?;
    for line in &options.config {
        writeln!(text, "{line}")?;
    }
    Ok(text)
}

/// Whether the server at `port` knows the password and has loaded its data.
fn ping(port: u16, password: &Password) -> io::Result<bool> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    (&stream).write_all(format!("AUTH {}\r\nPING\r\n", password.0).as_bytes())?;
    let mut answers = BufReader::new(&stream).lines();
    let mut next = || answers.next().transpose();
    Ok(next()?.as_deref() == Some("+OK") && next()?.as_deref() == Some("+PONG"))
}
