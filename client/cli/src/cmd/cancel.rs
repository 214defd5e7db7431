//! `bolthole cancel`: ends runs.

use std::io::{self, Write};

use bolthole_broker::control::Control;
use bolthole_broker::id::RunId;
use bolthole_broker::queue::Queue;
use bolthole_broker::state::RunState;
use bolthole_broker::store::{Error, Redis, Store};
use clap::Args;

use super::show::find;
use crate::servers::Servers;
use crate::words;

/// Ends runs: what has not finished never will. Whoever waits for their results is told the reason.
///
/// Workers are told by RabbitMQ to stop the runs' tasks at once. Without it the tasks that are running
/// end by themselves, and their results do not count.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 they have ended, 1 there is no such run or the store does not answer, 2 the arguments are
not understood.

Examples:
  bolthole cancel nightly --reason 'the files of Tuesday are missing'
  bolthole ps --json | jq -r '.runs[].run' | xargs bolthole cancel")]
pub(crate) struct Cancel {
    /// Names of runs, or their ids.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// What is said to those who wait for results.
    #[arg(long, value_name = "TEXT", default_value = "cancelled by an operator")]
    reason: String,
    #[command(flatten)]
    servers: Servers,
}

impl Cancel {
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let mut code = 0;
        let mut ended = Vec::new();
        for name in &self.runs {
            let cancel =
                async |redis: &Redis| self.cancel(&Store::Redis(redis.clone()), name).await;
            let Some(found) = self.servers.ask(cancel).await? else { return Ok(1) };
            let shown = words::harmless(name);
            match found {
                Some((run, RunState::Cancelled)) => {
                    writeln!(out, "run {shown} is cancelled")?;
                    ended.push(run);
                }
                Some((_, state)) => {
                    writeln!(out, "run {shown} had ended: {}", words::state(state))?;
                }
                None => {
                    writeln!(io::stderr(), "There is no run {shown}: `bolthole ps` lists them.")?;
                    code = 1;
                }
            }
        }
        if let Some(why) = self.tell(&ended).await {
            writeln!(
                io::stderr(),
                "Workers were not told, and finish what they have begun: {why}"
            )?;
        }
        Ok(code)
    }

    async fn cancel(&self, store: &Store, name: &str) -> Result<Option<(RunId, RunState)>, Error> {
        let Some(run) = find(store, name).await? else { return Ok(None) };
        Ok(store.cancel(run, &self.reason).await?.map(|state| (run, state)))
    }

    /// Has workers stop the tasks of these runs; why they were not told.
    async fn tell(&self, runs: &[RunId]) -> Option<String> {
        if runs.is_empty() {
            return None;
        }
        let Some(url) = &self.servers.amqp_url else {
            return Some(
                "no URL of RabbitMQ is given (--amqp-url or BOLTHOLE_AMQP_URL)".to_owned(),
            );
        };
        let queue = match Queue::connect(&url.0, &self.servers.namespace, "bolthole cancel").await {
            Ok(queue) => queue,
            Err(error) => return Some(error.to_string()),
        };
        for run in runs {
            if let Err(error) = queue.broadcast(Control::Ended(*run).encode()).await {
                return Some(error.to_string());
            }
        }
        queue.close().await;
        None
    }
}
