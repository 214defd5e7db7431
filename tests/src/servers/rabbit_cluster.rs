//! A private cluster of RabbitMQ.

use anyhow::{Context as _, ensure};

use super::rabbit::RabbitServer;
use super::wait_until;

/// Nodes: when one dies, the others are a majority.
const NODES: usize = 3;

/// Three nodes that are one broker, on loopback, with one user.
#[derive(Debug)]
pub struct RabbitCluster {
    /// The nodes; each can be harmed.
    pub nodes: Vec<RabbitServer>,
}

impl RabbitCluster {
    /// Starts the nodes one after the other and waits until all know each other.
    ///
    /// # Errors
    /// When RabbitMQ is not installed, or the cluster does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let mut nodes = vec![RabbitServer::start()?];
        while nodes.len() < NODES {
            nodes.push(RabbitServer::start_beside(&nodes[0])?);
        }
        let cluster = Self { nodes };
        cluster.wait_ok()?;
        Ok(cluster)
    }

    /// Where clients find the broker, with all of its hosts; `query` is empty or what follows `?`.
    pub fn url(&self, query: &str) -> String {
        let hosts: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let (login, hosts) = (self.nodes[0].login(), hosts.join(","));
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!("amqp://{login}@{hosts}/%2f{query}")
    }

    /// Waits until every node runs and sees all others.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub fn wait_ok(&self) -> anyhow::Result<()> {
        let count = "length(rabbit_nodes:all_running()).";
        let all = |node: &RabbitServer| {
            Ok(node.pid().is_some() && node.ctl(["eval", count])?.trim() == NODES.to_string())
        };
        for node in &self.nodes {
            wait_until("the nodes are one broker", || all(node))?;
        }
        Ok(())
    }

    /// Kind of a queue, and the place in [`Self::nodes`] of the node that has it, or leads those which
    /// do.
    ///
    /// # Errors
    /// When no node knows the queue.
    pub fn host(&self, queue: &str) -> anyhow::Result<(String, usize)> {
        let up =
            self.nodes.iter().find(|node| node.pid().is_some()).context("a node that is up")?;
        let list =
            up.ctl(["list_queues", "--silent", "--no-table-headers", "name", "type", "pid"])?;
        let line = list.lines().find(|line| line.split('\t').next() == Some(queue));
        let line = line.with_context(|| format!("no queue {queue}:\n{list}"))?;
        let words: Vec<&str> = line.split('\t').collect();
        ensure!(words.len() == 3, "{line}");
        let home = |node: &RabbitServer| words[2].contains(&node.node());
        let place = self.nodes.iter().position(home);
        Ok((words[1].to_owned(), place.with_context(|| format!("whose is {line}?"))?))
    }
}
