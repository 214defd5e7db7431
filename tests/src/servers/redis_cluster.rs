//! A private Redis Cluster.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::port::Port;
use super::redis::{RedisOptions, RedisServer};
use super::{random_hex, wait_until};

/// Servers with slots, the fewest that a cluster is made of.
pub const MASTERS: usize = 3;

/// A cluster of [`MASTERS`] servers without replicas, on loopback, behind one random password, each
/// with its append-only file.
#[derive(Debug)]
pub struct RedisCluster {
    /// The servers; each can be harmed.
    pub servers: Vec<RedisServer>,
    password: String,
    // The ports by which the servers talk to each other.
    _buses: Vec<Port>,
}

impl RedisCluster {
    /// Starts the servers, makes them a cluster and waits until all of them say that it is one.
    ///
    /// # Errors
    /// When `redis-server` or `redis-cli` is not installed, or the cluster does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let password = random_hex(16);
        let (mut servers, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..MASTERS {
            let bus = Port::reserve()?;
            let config = vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {}", bus.number()),
                // Until then nobody notices that one is away.
                "cluster-node-timeout 2000".to_owned(),
                // The file has every command since the start.
                "auto-aof-rewrite-percentage 0".to_owned(),
            ];
            let options = RedisOptions { append_only: true, config };
            servers.push(RedisServer::start_as(&options, password.clone())?);
            buses.push(bus);
        }
        let cluster = Self { servers, password, _buses: buses };
        let addresses = cluster.addresses();
        let mut create: Vec<&str> = vec!["create"];
        create.extend(addresses.iter().map(String::as_str));
        create.push("--cluster-yes");
        cluster.manage(&create)?;
        cluster.wait_ok()?;
        Ok(cluster)
    }

    fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect()
    }

    /// Where clients find the cluster, with its password and all of its servers.
    pub fn url(&self) -> String {
        format!("redis+cluster://default:{}@{}", self.password, self.addresses().join(","))
    }

    /// Waits until every server has a place for every slot and sees all others.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub fn wait_ok(&self) -> anyhow::Result<()> {
        wait_until("the cluster is one", || {
            let well = |server: &RedisServer| {
                let info = server.cli(["CLUSTER", "INFO"]).unwrap_or_default();
                let known = format!("cluster_known_nodes:{MASTERS}");
                ["cluster_state:ok", "cluster_slots_ok:16384", &known]
                    .iter()
                    .all(|line| info.lines().any(|said| said.trim() == *line))
            };
            Ok(self.servers.iter().all(well))
        })
    }

    /// What `redis-cli --cluster` prints for a command, for example `["check", "127.0.0.1:7000"]`.
    ///
    /// # Errors
    /// When it fails.
    pub fn manage(&self, command: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("redis-cli")
            .arg("--cluster")
            .args(command)
            .env("REDISCLI_AUTH", &self.password)
            .stdin(Stdio::null())
            .output()
            .context("cannot start redis-cli")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("redis-cli: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text.into_owned())
    }

    /// The server that has the slot of a key; its place in [`Self::servers`].
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn owner(&self, key: &str) -> anyhow::Result<usize> {
        let slot: u16 = self.servers[0].cli(["CLUSTER", "KEYSLOT", key])?.parse()?;
        let nodes = self.servers[0].cli(["CLUSTER", "NODES"])?;
        for line in nodes.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            // Slots that are on their way stand in brackets.
            let has = words.iter().skip(8).any(|slots| {
                let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
                let within =
                    || Some(first.parse::<u16>().ok()? <= slot && slot <= last.parse().ok()?);
                within().unwrap_or(false)
            });
            let port = words.get(1).and_then(|at| at.split(['@', ':']).nth(1)?.parse::<u16>().ok());
            if has {
                let mine = |server: &RedisServer| Some(server.port()) == port;
                return self.servers.iter().position(mine).context("a server of the cluster");
            }
        }
        bail!("no server has slot {slot}:\n{nodes}")
    }

    /// All keys that begin like this, of all servers.
    ///
    /// # Errors
    /// When a server does not answer.
    pub fn keys(&self, beginning: &str) -> anyhow::Result<Vec<String>> {
        let mut keys = Vec::new();
        for server in &self.servers {
            let found = server.cli(["--scan", "--pattern", &format!("{beginning}*")])?;
            keys.extend(found.lines().filter(|key| !key.is_empty()).map(ToOwned::to_owned));
        }
        Ok(keys)
    }

    /// The slot of a key.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn slot(&self, key: &str) -> anyhow::Result<String> {
        self.servers[0].cli(["CLUSTER", "KEYSLOT", key])
    }

    /// Says that a slot is on its way from one server to another.
    ///
    /// # Errors
    /// When one of them refuses.
    pub fn begin_move(&self, slot: &str, from: usize, to: usize) -> anyhow::Result<()> {
        let (from, to) = (&self.servers[from], &self.servers[to]);
        to.cli(["CLUSTER", "SETSLOT", slot, "IMPORTING", &from.cli(["CLUSTER", "MYID"])?])?;
        from.cli(["CLUSTER", "SETSLOT", slot, "MIGRATING", &to.cli(["CLUSTER", "MYID"])?])?;
        Ok(())
    }

    /// Moves a key of a slot that is on its way.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn move_key(&self, key: &str, from: usize, to: usize) -> anyhow::Result<()> {
        let port = self.servers[to].port().to_string();
        let login = ["AUTH2", "default", self.password.as_str()];
        let [auth, user, password] = login;
        let moving = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000", auth, user, password];
        self.servers[from].cli(moving).map(drop)
    }

    /// Moves what is left of a slot, and says so to all.
    ///
    /// # Errors
    /// When a server refuses.
    pub fn end_move(&self, slot: &str, from: usize, to: usize) -> anyhow::Result<()> {
        let left = self.servers[from].cli(["CLUSTER", "GETKEYSINSLOT", slot, "1000"])?;
        for key in left.lines().filter(|key| !key.is_empty()) {
            self.move_key(key, from, to)?;
        }
        let id = self.servers[to].cli(["CLUSTER", "MYID"])?;
        // First who has it now, so that at no time nobody has.
        let others = (0..MASTERS).filter(|server| *server != to);
        for server in std::iter::once(to).chain(others) {
            self.servers[server].cli(["CLUSTER", "SETSLOT", slot, "NODE", &id])?;
        }
        Ok(())
    }
}
