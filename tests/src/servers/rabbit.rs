//! A private RabbitMQ.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::group::{Group, Process};
use super::port::Port;
use super::{random_hex, wait_until};

/// Where distributions keep the server's own scripts. Debian's `/usr/sbin/rabbitmq-server` is a
/// wrapper that refuses ordinary users, so it is not among them.
const SCRIPTS: [&str; 3] = ["/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/opt/homebrew/sbin"];

/// What an AMQP 0-9-1 client says first.
const AMQP_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The name of the only user.
const USER: &str = "bolthole";

/// A RabbitMQ of this process alone, on loopback, with one user who has a random password, and
/// with a port mapper (epmd) of its own.
#[derive(Debug)]
pub struct RabbitServer {
    process: Option<Process>,
    /// None for one that uses another's.
    _epmd: Option<Process>,
    settings: Settings,
    // Last, for what it holds must outlive the processes that use it.
    group: Group,
}

impl RabbitServer {
    /// Starts a server without data or plugins and waits until it speaks AMQP.
    ///
    /// # Errors
    /// When `rabbitmq-server` is not installed or does not come up; the message ends with its log.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with further lines of its configuration.
    ///
    /// # Errors
    /// As for [`RabbitServer::start`].
    pub(super) fn start_with(config: &[String]) -> anyhow::Result<Self> {
        Self::start_as(Settings { config: config.join("\n"), ..Settings::new()? }, true)
    }

    /// Starts a server that joins the cluster of another one, with the same user.
    ///
    /// # Errors
    /// As for [`RabbitServer::start`].
    pub(super) fn start_beside(first: &Self) -> anyhow::Result<Self> {
        Self::start_as(Settings::beside(&first.settings)?, false)
    }

    fn start_as(settings: Settings, with_epmd: bool) -> anyhow::Result<Self> {
        let group = Group::new()?;
        settings.write(group.folder())?;
        let epmd = if with_epmd { Some(start_epmd(&group, &settings)?) } else { None };
        let mut server = Self { process: None, _epmd: epmd, settings, group };
        server.launch()?;
        Ok(server)
    }

    /// Where clients find the server: `amqp://USER:PASSWORD@127.0.0.1:PORT/%2f`.
    pub fn url(&self) -> String {
        format!("amqp://{USER}:{}@127.0.0.1:{}/%2f", self.settings.password, self.port())
    }

    /// The node's name in its cluster.
    pub fn node(&self) -> String {
        format!("{}@localhost", self.settings.node())
    }

    /// User and password, as in a URL.
    pub(super) fn login(&self) -> String {
        format!("{USER}:{}", self.settings.password)
    }

    /// The loopback port of AMQP, the same for the life of this value.
    pub fn port(&self) -> u16 {
        self.settings.amqp.number()
    }

    /// The server's own folder, also its home: configuration, log and data.
    pub fn folder(&self) -> &Path {
        self.group.folder()
    }

    /// The id of the server's process while it is up.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What `rabbitmqctl` prints for a command, for example
    /// `["list_queues", "--silent", "name", "messages"]`. Takes a second or two.
    ///
    /// # Errors
    /// When the server is down or refuses the command.
    pub fn ctl<const N: usize>(&self, command: [&str; N]) -> anyhow::Result<String> {
        let output = self.script("rabbitmqctl")?.args(command).output()?;
        if !output.status.success() {
            bail!("rabbitmqctl: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Stops the server in good order (SIGTERM). Harmless when it is down.
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
        fs::remove_dir_all(self.group.folder().join("mnesia"))?;
        self.launch()
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        // A killed server is forgotten by epmd a moment later; until then its name is taken.
        wait_until("the old server is forgotten", || Ok(!self.settings.node_is_registered()))?;
        let mut command = self.script("rabbitmq-server")?;
        // "Input" makes the script become the server instead of its parent, so that signals
        // reach the server; the argument then takes the input away again.
        command.env("RABBITMQ_ALLOW_INPUT", "1");
        command.env("RABBITMQ_SERVER_START_ARGS", "-noinput");
        let mut process = self.group.spawn("rabbitmq", command)?;
        let port = self.port();
        process.wait_ready(|| speaks_amqp(port).unwrap_or(false))?;
        self.process = Some(process);
        Ok(())
    }

    /// One of RabbitMQ's own scripts, set up for this server.
    fn script(&self, name: &str) -> anyhow::Result<Command> {
        let script = SCRIPTS.iter().map(|folder| Path::new(folder).join(name));
        let Some(script) = script.into_iter().find(|script| script.exists()) else {
            bail!("RabbitMQ is not in {SCRIPTS:?}; tests/run.sh installs what is missing");
        };
        let mut command = self.group.command(script)?;
        command.envs(self.settings.environment(self.group.folder()));
        Ok(command)
    }
}

/// Starts a port mapper. Ours, because the one that Erlang starts by itself leaves the process group.
fn start_epmd(group: &Group, settings: &Settings) -> anyhow::Result<Process> {
    let mut epmd = group.command("epmd")?;
    let port = settings.epmd.number();
    epmd.args(["-address", "127.0.0.1", "-port", &port.to_string()]);
    let mut epmd = group
        .spawn("epmd", epmd)
        .context("RabbitMQ did not start; tests/run.sh installs what is missing")?;
    epmd.wait_ready(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
    Ok(epmd)
}

/// What makes one server differ from the others.
struct Settings {
    amqp: Port,
    distribution: Port,
    epmd: Arc<Port>,
    password: String,
    cookie: String,
    /// The node whose cluster it joins.
    first: Option<String>,
    /// Further lines of the configuration.
    config: String,
}

impl Settings {
    fn new() -> anyhow::Result<Self> {
        let (amqp, distribution) = (Port::reserve()?, Port::reserve()?);
        Ok(Self {
            amqp,
            distribution,
            epmd: Arc::new(Port::reserve()?),
            password: random_hex(16),
            cookie: random_hex(16),
            first: None,
            config: String::new(),
        })
    }

    fn beside(first: &Self) -> anyhow::Result<Self> {
        Ok(Self {
            epmd: Arc::clone(&first.epmd),
            password: first.password.clone(),
            cookie: first.cookie.clone(),
            first: Some(first.node()),
            ..Self::new()?
        })
    }

    fn node(&self) -> String {
        format!("bolthole{}", self.amqp.number())
    }

    /// Writes the configuration, and the cookie by which `rabbitmqctl` proves who it is.
    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        // The user is made with the first boot, and then `guest` is not.
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\ndefault_user = {USER}\ndefault_pass = {}\n\
             log.console = true\nlog.console.level = warning\nlog.file = false\n",
            self.amqp.number(),
            self.password
        );
        if let Some(first) = &self.first {
            writeln!(
                config,
                "cluster_formation.peer_discovery_backend = classic_config\n\
                 cluster_formation.classic_config.nodes.1 = {first}@localhost\n\
                 cluster_formation.classic_config.nodes.2 = {}@localhost",
                self.node()
            )?;
        }
        writeln!(config, "{}", self.config)?;
        fs::write(folder.join("rabbitmq.conf"), config)?;
        fs::write(folder.join("enabled_plugins"), "[].\n")?;
        fs::write(folder.join("empty.conf"), "")?;
        fs::create_dir(folder.join("conf.d"))?;
        let cookie = folder.join(".erlang.cookie");
        fs::write(&cookie, &self.cookie)?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        Ok(())
    }

    /// Everything by which RabbitMQ would otherwise look into the system's folders or use the
    /// system's ports.
    fn environment(&self, folder: &Path) -> Vec<(&'static str, PathBuf)> {
        let erlang = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}";
        vec![
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("ERL_EPMD_PORT", self.epmd.number().to_string().into()),
            ("RABBITMQ_NODENAME", format!("{}@localhost", self.node()).into()),
            ("RABBITMQ_NODE_PORT", self.amqp.number().to_string().into()),
            ("RABBITMQ_DIST_PORT", self.distribution.number().to_string().into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang.into()),
            ("RABBITMQ_CONF_ENV_FILE", folder.join("empty.conf")),
            ("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf")),
            ("RABBITMQ_CONFIG_FILES", folder.join("conf.d")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("generated")),
            ("RABBITMQ_LOG_BASE", folder.join("log")),
            ("RABBITMQ_MNESIA_BASE", folder.join("mnesia")),
            ("RABBITMQ_PID_FILE", folder.join("rabbitmq.pid")),
            ("RABBITMQ_SCHEMA_DIR", folder.join("schema")),
        ]
    }

    /// Whether epmd still lists the node. Asked in epmd's own protocol: request 122 (a port
    /// please), answered by 119 and 0 if the name is known.
    fn node_is_registered(&self) -> bool {
        let ask = || -> io::Result<bool> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.epmd.number()))?;
            let request = [&[122], self.node().as_bytes()].concat();
            let length = u16::try_from(request.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &request].concat())?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer)?;
            Ok(answer == [119, 0])
        };
        ask().unwrap_or(false)
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let amqp = self.amqp.number();
        f.debug_struct("Settings").field("amqp", &amqp).finish_non_exhaustive()
    }
}

/// Whether the server at `port` answers an AMQP client: with a method frame (type 1, channel 0)
/// that holds `connection.start` (class 10, method 10). It does so once it has booted.
fn speaks_amqp(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(AMQP_HEADER)?;
    let mut frame = [0; 11];
    stream.read_exact(&mut frame)?;
    Ok(frame[..3] == [1, 0, 0] && frame[7..] == [0, 10, 0, 10])
}
